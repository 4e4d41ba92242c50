export {
  createPool,
  notify,
  type PoolOptions,
  type PublishedSignal,
  type Signal,
} from '@pg-signals/db';
export {
  countDeadLetters,
  type DroppedDeadLetters,
  dropDeadLetters,
  type RetriedDeadLetters,
  retryDeadLetters,
} from './group/admin/deadLetters.ts';
export { type DeletedGroup, deleteGroup } from './group/admin/deleteGroup.ts';
export { type DeadLetter, listDeadLetters, listRetries, type RetryState } from './group/admin/failed.ts';
export { GroupError, type GroupFailure } from './group/admin/groupError.ts';
export { type GroupState, type LaneState, listGroups, type MemberState, showGroup } from './group/admin/groups.ts';
export type { Lag } from './group/admin/lag.ts';
export { missingGroupRights } from './group/admin/missingRights.ts';
export { type ResetPosition, resetGroup } from './group/admin/resetGroup.ts';
export type { BatchHandler } from './group/batchHandling.ts';
export { Group } from './group/group.ts';
export { type Handler, type HandlerContext, HandlerTimeoutError } from './group/handling.ts';
export { GroupMismatchError } from './group/joinGroup.ts';
export type { MemberLagOptions } from './group/memberLag.ts';
export type { GroupObserver, GroupOptions } from './group/options.ts';
export { Slot, type SlotOptions } from './group/slot.ts';
export type { PayloadHandler } from './listen/connection.ts';
export type { Callback } from './listen/dispatcher.ts';
export type { Source } from './listen/feed.ts';
export { type FeedRow, type FeedTable, signalsTable, type TruncatedRow } from './listen/feedTable.ts';
export { type ListenOptions, listen } from './listen/listen.ts';
export { Listener, type ListenerObserver, type ListenerOptions, type SignalCallback } from './listen/listener.ts';
export type { Logger } from './logger.ts';
export { type FieldError, isKey, type NewSignal } from './publish/newSignal.ts';
export { isSignalsOwn, PublishError, type PublishFailure } from './publish/publishError.ts';
export { createPublisher, type Publisher, type PublisherObserver, type PublisherOptions } from './publish/publisher.ts';
export type { GroupKey } from './publish/signalRow.ts';
