// Streams a sine through a session, and prints what the model says next.
//
//   node examples/node.mjs ws://localhost:8080 sunspots-gru

import { Client } from "carousel-client";
import { WebSocket } from "ws";

const [url = "ws://localhost:8080", model = "sunspots-gru"] = process.argv.slice(2);
const client = new Client(url, { WebSocket, token: process.env.CAROUSEL_TOKEN });

function* sine(count) {
  for (let k = 0; k < count; k += 1) yield Float32Array.of(Math.sin(k / 3));
}

const session = await client.session(model);
for await (const output of session.stream(sine(5))) console.log(output[0]);
await session.close();
client.close();
