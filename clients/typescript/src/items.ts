/** What CBOR has and JavaScript lacks. */

/** Deepest nesting that is read or written. */
export const DEPTH_MAX = 256;

/** An item with a tag that has no meaning here. */
export class Tag {
  constructor(
    /** Its number. */
    readonly tag: number | bigint,
    /** What is tagged. */
    readonly value: unknown,
  ) {}

  /** @internal The name by which cborg writes it as a tag. */
  get [Symbol.toStringTag](): string {
    return "Tagged";
  }
}

/** Bytes that are no CBOR. */
export class Malformed extends Error {
  override readonly name = "Malformed";
}
