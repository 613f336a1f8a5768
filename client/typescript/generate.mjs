// Makes src/gen from the .proto files:  node generate.mjs [OUT]
// A test makes them again and compares.

import { execFileSync } from "node:child_process";
import { resolve } from "node:path";

const here = import.meta.dirname;
const out = resolve(process.argv[2] ?? resolve(here, "src/gen"));
const config = {
  version: "v2",
  modules: [
    { path: "protos", includes: ["protos/carousel_protos/v1"] },
    { path: "protos/third_party" },
    { path: "client/typescript/proto" },
  ],
};
const template = {
  version: "v2",
  plugins: [
    {
      local: resolve(here, "node_modules/.bin/protoc-gen-es"),
      out,
      opt: ["target=ts", "import_extension=js"],
    },
  ],
};
execFileSync(
  resolve(here, "node_modules/.bin/buf"),
  ["generate", "--config", JSON.stringify(config), "--template", JSON.stringify(template)],
  { cwd: resolve(here, "../.."), stdio: "inherit" },
);
