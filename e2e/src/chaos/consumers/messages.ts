/** What the checker and a consumer's process tell each other. */

/** Deliveries since the last message, column by column: a run has millions of them. */
export interface Deliveries {
  readonly type: 'deliveries';
  readonly ids: Float64Array;
  /** When each was handed on, on the clock of `now()`. */
  readonly at: Float64Array;
  /** What each said, see `digest`; 0 where it named its row without saying the values. */
  readonly digests: Uint32Array;
}

export type FromConsumer =
  | Deliveries
  | { readonly type: 'listening' }
  | { readonly type: 'log'; readonly lines: string };

export type ToConsumer =
  /** Keep the callback waiting for this long. */
  | { readonly type: 'hold'; readonly ms: number }
  /** Stand still, the whole process, for this long. */
  | { readonly type: 'freeze'; readonly ms: number }
  | { readonly type: 'stop' };
