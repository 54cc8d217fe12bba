/** The seeds' key-value store and a little more, for the kit. */
import { GenServer, NO_REPLY, type Event, type From } from "pillion";

/** What breaks on purpose. */
export class Boom extends Error {}

/** See `tests/conformance/README.md`, `gen_server`. */
export class Store extends GenServer {
  private values = new Map<string, unknown>();
  private held: From[] = [];

  constructor(private readonly say: (told: Record<string, unknown>) => void) {
    super();
  }

  override init(): void {
    this.values = new Map();
  }

  override handleCall(request: unknown, from: From): unknown {
    const [what, key] = request as [string, string];
    switch (what) {
      case "get":
        return this.values.get(key) ?? null;
      case "boom":
        throw new Boom("it broke");
      case "hold":
        this.held.push(from);
        return NO_REPLY;
      case "stop":
        this.stop();
        return "ok";
      default:
        return super.handleCall(request, from);
    }
  }

  override handleCast(request: unknown): void {
    const [what, key, value] = request as [string, string, unknown];
    if (what === "set") this.values.set(key, value);
    else if (what === "delete") this.values.delete(key);
    else if (what === "release") for (const from of this.held.splice(0)) void from.reply(key);
  }

  override handleInfo(event: Event): void {
    if (event.ev === "message") this.say({ info: event.body });
    else if (event.ev === "gap") this.say({ info: { gap: event.lost } });
  }

  override terminate(reason: string): void {
    this.say({ terminate: reason });
  }
}
