/** For Node itself, wherever a service is started; the Dockerfiles say the same. A small young generation takes less memory. */
export const NODE_FLAGS = ['--max-semi-space-size=16'];
