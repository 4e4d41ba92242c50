import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['*/test/**/*.test.ts'],
    globalSetup: ['local/src/testing.ts'],
    pool: 'forks',
    // Every wait in a test is for an event; these only end one that waits for what never comes.
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
