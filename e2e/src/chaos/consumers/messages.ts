/** The messages between the checker and a consumer's process. */

/** Deliveries since the last message, column by column: a run has millions of them. */
export interface Deliveries {
  readonly type: 'deliveries';
  readonly ids: Float64Array;
  /** When each was delivered, on the clock of `now()`. */
  readonly at: Float64Array;
  /** See `digest`. */
  readonly digests: Uint32Array;
}

export type FromConsumer = Deliveries | { readonly type: 'listening' };

export type ToConsumer =
  /** Let every callback take until `ms` from now. */
  | { readonly type: 'hold'; readonly ms: number }
  /** Block the whole process for `ms`. */
  | { readonly type: 'freeze'; readonly ms: number }
  | { readonly type: 'stop' };
