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
}

/** A simple value without a meaning here. */
export class Simple {
  constructor(
    /** 0 to 255. */
    readonly value: number,
  ) {}
}

/** Bytes that are no CBOR. */
export class Malformed extends Error {
  override readonly name = "Malformed";
}
