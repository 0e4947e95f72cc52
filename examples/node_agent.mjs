// An agent with npm's `redis` and no SDK of ours:  REDIS_URL=redis://… node node_agent.mjs SESSION
import { createClient } from "redis";

const session = process.argv[2];
const answers = `permission_responses:{${session}}`;
const redis = await createClient({ url: process.env.REDIS_URL }).on("error", console.error).connect();
const call = (name, ...args) => insist(() => redis.fCall(name, { keys: [session], arguments: args }));

async function insist(work) {
  for (let pause = 50; ; pause = Math.min(2 * pause, 2000)) {
    try {
      return await work();
    } catch (error) {
      // These say that nothing happened, and pass. SSE_… says what is wrong with the call.
      if (!/Function not found|TRYAGAIN|LOADING|READONLY/.test(error.message)) throw error;
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

async function permission(request) {
  for (;;) {
    // Before asking: an answer may come before we begin to wait.
    const [last] = await insist(() => redis.xRevRange(answers, "+", "-", { COUNT: 1 }));
    const standing = JSON.parse(await call("sse_ask", JSON.stringify(request)));
    if (standing.status === "decided") return standing.decision;
    const now = 1000 * (await redis.sendCommand(["TIME"]))[0]; // The deadline is on Redis's clock, not on ours.
    const BLOCK = Math.max(1, Math.min(Date.parse(standing.expires_at) - now, 30_000));
    await insist(() => redis.xRead({ key: answers, id: last?.id ?? "0-0" }, { BLOCK }));
  }
}

const request = { request_id: "deploy-7", tool_name: "deploy", parameters: { to: "production" }, expires_in: 300 };
await call("sse_publish", JSON.stringify({ type: "tool_status", data: { status: "waiting_for_permission" } }));
const decision = await permission(request);
const ours = decision.approved && (await call("sse_claim", request.request_id, `node-${Math.random()}`)) === 1;
const data = { tool_name: "deploy", success: ours, result: ours ? "deployed" : `not deployed: ${decision.outcome}` };
await call("sse_publish", JSON.stringify({ type: "tool_result", data }));
await redis.close();
