/** Values between the kit's JSON and the client: `{"$bytes": base64}` stands for bytes, both ways. */
import { PillionError, Tag } from "pillion";

/** What a line of the kit means. */
export function fromJson(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value !== "object" || value === null) return value;
  const members = value as Record<string, unknown>;
  if (typeof members["$bytes"] === "string") return Buffer.from(members["$bytes"], "base64");
  return Object.fromEntries(Object.entries(members).map(([key, member]) => [key, fromJson(member)]));
}

/** What the kit reads. */
export function toJson(value: unknown): unknown {
  if (value === undefined) return null;
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, member]) => [String(key), toJson(member)]));
  if (value instanceof Tag) return toJson(value.value);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined).map(([key, member]) => [key, toJson(member)]));
}

/** What the kit reads of an error. */
export function errorJson(error: unknown): Record<string, unknown> {
  if (!(error instanceof PillionError)) return { code: "driver", message: String(error), maybe_applied: false };
  return {
    code: error.code,
    message: error.message,
    maybe_applied: error.maybeApplied,
    class: error.class,
    reason: error.reason,
    stack: error.remoteStack,
    nodes: error.nodes,
  };
}
