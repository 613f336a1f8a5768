import { defineConfig } from "vitest/config";

export default defineConfig({
  // One file after the other: some start servers, and a small machine has few cores.
  test: { fileParallelism: false, testTimeout: 60_000, hookTimeout: 180_000 },
});
