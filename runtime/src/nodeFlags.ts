/** Flags of Node for every service, here and in the Dockerfiles: a small young generation takes less memory. */
export const NODE_FLAGS = ['--max-semi-space-size=16'];
