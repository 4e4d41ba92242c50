/** Finds the items that make the database refuse a batch. */

export interface Halving<T, R> {
  /** Inserts the items together: all or none. */
  insert: (items: readonly T[]) => Promise<R>;
  /** True for an error that one of the items is to blame for. */
  isRefusal: (error: unknown) => boolean;
  /** Called after each insert that succeeded, before the next one begins. */
  inserted?: (items: readonly T[], result: R) => void;
  /** Called with a single item that was refused, or with several after an error that is no refusal. */
  failed: (items: readonly T[], error: unknown, first: number) => void;
}

/**
 * Inserts all items at once; where that is refused, each half by itself, and so on down to single items. Each item is
 * reported once, in order. One bad item among n takes about 2 log2(n) inserts more.
 *
 * After any other error that part is not halved, and the other parts go on. To stop them too, throw from `failed`, or let
 * `insert` reject from then on.
 *
 * @param first index of the first item, which `failed` is called with.
 */
export async function inHalves<T, R>(items: readonly T[], halving: Halving<T, R>, first = 0): Promise<void> {
  let result: R;
  try {
    result = await halving.insert(items);
  } catch (error) {
    if (items.length === 1 || !halving.isRefusal(error)) return halving.failed(items, error, first);
    const middle = items.length >> 1;
    await inHalves(items.slice(0, middle), halving, first);
    await inHalves(items.slice(middle), halving, first + middle);
    return;
  }
  halving.inserted?.(items, result);
}
