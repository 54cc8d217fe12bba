/** What a process has that lives on beyond a session, or in the place of who receives. */

/** Something that is declared again in a new session. */
export interface Declaration {
  /** When, among the others. */
  order: number;
  declare(): void;
}

/** The order in which things are declared. */
export const ORDER = { link: 0, name: 1, module: 2, group: 3, subscription: 4, presence: 5, nodes: 6, groups: 7, watch: 8 };

/** What runs in a process in the place of who receives. */
export interface Resident {
  /** Finishes what was given to it, and ends. */
  finish(reason: string): Promise<void>;
  /** The process has been spawned again. */
  again(): void;
  /** The process died. */
  died(reason: string): void;
  /** Nobody waits for the answer to this call any more. */
  onCancel?(ref: number): void;
}
