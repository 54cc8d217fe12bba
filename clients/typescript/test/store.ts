/** The articles' key-value store as a program of its own. */
import { GenServer, run } from "pillion";

class Boom extends Error {}

class Store extends GenServer {
  private readonly state = new Map<string, unknown>([["foo", 1]]);

  override init(): void {
    console.log("registered");
  }

  override async handleCall(request: unknown): Promise<unknown> {
    const [what, value] = request as [string, string];
    if (what === "get") return this.state.get(value) ?? null;
    if (what === "boom") throw new Boom("it broke");
    if (what === "stop") {
      this.stop(value);
      return "ok";
    }
    console.log("working");
    await new Promise((resolve) => setTimeout(resolve, 300));
    return value;
  }

  override handleCast(request: unknown): void {
    const [, key, value] = request as [string, string, unknown];
    this.state.set(key, value);
  }

  override terminate(reason: string): void {
    console.log(`ended: ${reason}`);
  }
}

void run(new Store(), { name: "primary_store" });
