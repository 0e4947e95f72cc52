"""Measure the gateway beside others on the same work, in one run, on one machine (`make bench`).

machine    which machine this is; pinning to cores; CPU and memory of processes from /proc
started    the processes of a run, each ended by its pid
programs   the C programs: compiled when the run begins; talking to the load client
servers    what is measured: the gateway over either transport, and its peers
cases      what is measured about them, a function each
plan       which cases a quick and a full run take, with which numbers
summary    medians over runs; goals: whether each was reached; report: the tables
plots      the pictures
"""
