/** The same for who imports: one implementation, so that an error is an instance of its class wherever it is caught. */
export * from "./index.js";
