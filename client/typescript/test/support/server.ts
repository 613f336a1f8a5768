// A real server as a process, if Carousel is installed in the repository's .venv.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../..", import.meta.url));
const python = `${root}/.venv/bin/python`;

/** Whether a server can be started. Tests that need one are skipped by name without it. */
export const hasServer = existsSync(python);

export class Server {
  private constructor(
    private readonly child: ChildProcess,
    readonly port: number,
  ) {}

  /** Starts a server with the models of the zoo, and waits until it is ready. */
  static async start(...flags: string[]): Promise<Server> {
    const args = ["-m", "carousel_server", "--models", `${root}/models/zoo`, "--device", "cpu", "--strict"];
    args.push("--port", "0", "--metrics-port", "0", ...flags);
    if (!flags.includes("--http-port")) args.push("--http-port", "0");
    const env = { ...process.env, OMP_NUM_THREADS: "1" };
    const child = spawn(python, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    let log = "";
    child.stderr.on("data", (text) => {
      log += text;
    });
    for await (const line of createInterface({ input: child.stdout })) {
      const ready = JSON.parse(line);
      if (ready.event !== "ready") break;
      child.stdout.resume();
      return new Server(child, ready.http_port);
    }
    throw new Error(`the server did not start:\n${log}`);
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** Ends the process at once (SIGKILL), or as an operator would (SIGTERM). */
  async stop(signal: "SIGKILL" | "SIGTERM" = "SIGTERM"): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exited = once(this.child, "exit");
    this.child.kill(signal);
    await exited;
  }
}
