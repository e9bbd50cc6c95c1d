// A typed publish and subscribe hub.

export class Hub<Events extends Record<string, unknown>> {
  private readonly listeners = new Map<keyof Events, Set<(event: never) => void>>();

  // Subscribes to a kind of event; call what it returns to unsubscribe.
  on<K extends keyof Events>(kind: K, listener: (event: Events[K]) => void): () => void {
    const set = this.listeners.get(kind) ?? new Set();
    this.listeners.set(kind, set.add(listener as (event: never) => void));
    return () => set.delete(listener as (event: never) => void);
  }

  // Publishes an event to all who subscribed, in the order in which they did.
  emit<K extends keyof Events>(kind: K, event: Events[K]): void {
    for (const listener of this.listeners.get(kind) ?? []) (listener as (event: Events[K]) => void)(event);
  }
}
