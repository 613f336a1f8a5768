// The test vectors that all clients share: encoded messages, and schedules of the client core.

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type DescMessage, fromBinary, fromJson, type JsonValue, toBinary, toJson } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { file_carousel_protos_v1_carousel as file } from "../src/gen/carousel_protos/v1/carousel_pb.js";
import { Player, type Record_, registry } from "./player.js";

const vectors = fileURLToPath(new URL("../../../protos/vectors/", import.meta.url));
const read = (name: string) => JSON.parse(readFileSync(vectors + name, "utf8"));

describe("messages", () => {
  const schemas = new Map<string, DescMessage>(file.messages.map((one) => [one.name, one]));
  const entries: Record_[] = read("messages.json");

  test("there are some", () => {
    expect(entries.length).toBeGreaterThan(20);
  });

  test.each(entries.map((entry) => [`${entry["message"]}: ${entry["about"]}`, entry] as const))(
    "%s",
    (_, entry) => {
      const schema = schemas.get(entry["message"]) as DescMessage;
      const bytes = new Uint8Array(Buffer.from(entry["base64"], "base64"));
      const parsed = fromBinary(schema, bytes);
      expect(toJson(schema, parsed, { registry })).toEqual(entry["json"]);
      const made = fromJson(schema, entry["json"] as JsonValue, { registry });
      expect(Buffer.from(toBinary(schema, made)).toString("base64")).toBe(entry["base64"]);
    },
  );
});

describe("schedules", () => {
  const names = readdirSync(`${vectors}schedules`).sort();

  test("there are some", () => {
    expect(names.length).toBeGreaterThan(20);
  });

  test.each(names)("%s", (name) => {
    const schedule: Record_ = read(`schedules/${name}`);
    const player = new Player(schedule["servers"] ?? ["one:1"]);
    for (const [index, event] of (schedule["events"] as Record_[]).entries()) {
      const { effects, ...given } = event;
      expect(player.play(given), `event ${index}: ${JSON.stringify(given)}`).toEqual(effects);
    }
  });
});
