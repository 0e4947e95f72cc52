"""Tests of the command line: real processes, real servers, a real terminal where one is needed."""
