/** What the data of an event tells, whichever of the usual names an agent uses. */

import { preview } from "./json.js";
import { clip, firstText, isObject } from "./text.js";

const KINDS = new Set(["tool_status", "tool_result", "permission_request", "permission_cleared"]);
export const kindOf = (type) => (KINDS.has(type) ? `is-${type.replace("_", "-")}` : "is-other");

export function summary({ type, data }) {
  if (!isObject(data)) return preview(data ?? "");
  const tool = toolName(data);
  const join = (...parts) => parts.filter(Boolean).map((part) => clip(String(part), 200)).join(" · ");
  switch (type) {
    case "tool_status":
      return join(tool, data.status, firstText(data.message, data.detail, data.description) ?? preview(argumentsOf(data) ?? "")) ||
        preview(data);
    case "tool_result":
      return join(tool, isFailure(data) ? "failed" : "done", preview(resultOf(data) ?? "")) || preview(data);
    case "permission_request":
      return join(tool, `${data.risk_level ?? "unknown"} risk`, data.title ?? preview(data.parameters ?? ""));
    case "permission_cleared":
      return join(data.outcome, data.decided_by && `by ${data.decided_by}`, data.reason) || preview(data);
    default:
      return preview(data);
  }
}

export const argumentsOf = (data) => [data.parameters, data.arguments, data.input].find((value) => value !== undefined && value !== null);
export const toolName = (data) => firstText(data.tool_name, data.tool, data.name);
export const resultOf = (data) => [data.result, data.output, data.error].find((value) => value !== undefined && value !== null);
export const isFailure = (data) => data.success === false || data.is_error === true || (data.success !== true && Boolean(data.error));
