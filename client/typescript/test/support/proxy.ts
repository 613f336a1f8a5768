// A TCP proxy that cuts the first WebSocket after a number of bytes.

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export class CuttingProxy {
  /** Bytes of the present WebSocket, of both directions. */
  bytes = 0;
  /** WebSockets so far. */
  sockets = 0;
  /** How many connections were cut. */
  cuts = 0;
  private cutAt: number | undefined;
  private readonly open = new Set<Socket>();

  private constructor(
    private readonly server: Server,
    private readonly to: number,
  ) {
    server.on("connection", (near) => this.carry(near));
  }

  static async start(to: number): Promise<CuttingProxy> {
    const server = createServer();
    const proxy = new CuttingProxy(server, to);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return proxy;
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** The next WebSocket is cut once it has carried so many bytes. */
  cutAfter(bytes: number): void {
    this.cutAt = bytes;
    this.sockets = this.cuts = 0;
  }

  stop(): void {
    for (const socket of this.open) socket.destroy();
    this.server.close();
  }

  private carry(near: Socket): void {
    const far = connect(this.to, "127.0.0.1");
    const limit: { left: number | undefined } = { left: undefined };
    const cut = () => {
      near.destroy();
      far.destroy();
    };
    for (const socket of [near, far]) {
      this.open.add(socket);
      socket.setNoDelay(true);
      socket.on("error", cut);
      socket.on("close", () => {
        this.open.delete(socket);
        cut();
      });
    }
    near.once("data", (data) => {
      if (data.toString("latin1").startsWith("GET /api/attach")) {
        this.sockets += 1;
        this.bytes = 0;
        limit.left = this.cutAt;
        this.cutAt = undefined;
      }
    });
    const forward = (to: Socket) => (data: Buffer) => {
      const { left } = limit;
      this.bytes += data.length;
      if (left === undefined || data.length < left) {
        to.write(data);
        if (left !== undefined) limit.left = left - data.length;
        return;
      }
      this.cuts += 1;
      limit.left = 0;
      to.write(data.subarray(0, left), cut);
    };
    near.on("data", forward(far));
    far.on("data", forward(near));
  }
}
