/** A queue whose elements can be looked at by their place from the front. */
export class Deque<T> {
  private items: (T | undefined)[] = [];
  private head = 0;

  get length(): number {
    return this.items.length - this.head;
  }

  push(item: T): void {
    this.items.push(item);
  }

  /** Returns the element at a place from 0 to length - 1. */
  at(place: number): T {
    return this.items[this.head + place] as T;
  }

  shift(): T | undefined {
    if (this.length === 0) {
      return undefined;
    }
    const item = this.items[this.head];
    this.items[this.head++] = undefined;
    if (this.head >= 1024 && this.head * 2 >= this.items.length) {
      this.items = this.items.slice(this.head);
      this.head = 0;
    }
    return item;
  }

  /** Drops the elements that do not pass. */
  filter(keep: (item: T) => boolean): void {
    this.items = this.items.slice(this.head).filter((item) => keep(item as T));
    this.head = 0;
  }
}
