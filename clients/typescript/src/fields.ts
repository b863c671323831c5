import type { Fields, FieldValue } from "./wire.js";

/** The types of numbers that a JavaScript number or bigint does not choose by itself. */
export type NumberType = "int8" | "int16" | "int32" | "uint8" | "uint16" | "uint32" | "float" | "double";

/** A number that is sent with a type of its own: `new Typed("int16", 5)`. */
export class Typed {
  readonly type: NumberType;
  readonly value: number;

  /** Throws a RangeError when the type has no such number. */
  constructor(type: NumberType, value: number) {
    const bounds = ranges[type];
    if (bounds && !(Number.isInteger(value) && value >= bounds[0] && value <= bounds[1])) {
      throw new RangeError(`${value} is no ${type}`);
    }
    this.type = type;
    this.value = value;
  }
}

const ranges: Partial<Record<NumberType, [least: number, most: number]>> = {
  int8: [-128, 127],
  int16: [-32768, 32767],
  int32: [-2147483648, 2147483647],
  uint8: [0, 255],
  uint16: [0, 65535],
  uint32: [0, 4294967295],
};

/** AMQP's decimal: unscaled / 10^scale. */
export class Decimal {
  constructor(
    /** 0 to 255. */
    readonly scale: number,
    /** 0 to 4,294,967,295. */
    readonly unscaled: number,
  ) {}
}

/** A text that is not UTF-8, by its bytes; `Buffer.from(octets).toString()` reads what can be read. */
export class Octets extends Uint8Array {}

/**
 * The value of a header or argument. An integral number and a bigint are sent as 64-bit integers, other numbers as
 * doubles; Typed chooses another type. A Date is sent to the second. Received integers are numbers where a number holds
 * them exactly and bigints beyond ±(2^53 − 1); a received Uint8Array is a Buffer.
 */
export type Value = null | boolean | string | number | bigint | Typed | Decimal | Date | Uint8Array | Value[] | { [key: string]: Value };

/** Headers of a message; arguments of a queue, exchange or binding. */
export type Table = Record<string, Value>;

/** Turns a table into the API's fields; throws a TypeError or RangeError for a value that cannot be sent. */
export function toFields(table: Table | undefined): Fields {
  const fields: Fields = {};
  for (const [key, value] of Object.entries(table ?? {})) {
    if (value !== undefined) {
      checkText(key, "a name");
      set(fields, key, toField(value, key));
    }
  }
  return fields;
}

const leastInt64 = -(2n ** 63n);
const mostInt64 = 2n ** 63n - 1n;

function toField(value: Value, key: string): FieldValue {
  switch (typeof value) {
    case "boolean":
      return { boolValue: value };
    case "string":
      checkText(value, key);
      return { stringValue: value };
    case "number":
      return toNumber(value, key);
    case "bigint":
      if (value < leastInt64 || value > mostInt64) {
        throw new RangeError(`${key}: ${value} does not fit into 64 bits`);
      }
      return { int64Value: value.toString() };
    case "object":
      return value === null ? {} : toStructure(value, key);
    default:
      throw new TypeError(`${key}: a ${typeof value} cannot be sent`);
  }
}

function toNumber(value: number, key: string): FieldValue {
  if (!Number.isInteger(value) || Object.is(value, -0)) {
    return { doubleValue: value };
  }
  if (!Number.isSafeInteger(value)) {
    throw new RangeError(`${key}: ${value} is not exact; use a bigint, or new Typed("double", …)`);
  }
  return { int64Value: value.toString() };
}

function toStructure(value: Exclude<Value, null | boolean | string | number | bigint>, key: string): FieldValue {
  if (value instanceof Typed) {
    return { [`${value.type}Value`]: value.value };
  }
  if (value instanceof Decimal) {
    return { decimalValue: { scale: value.scale, unscaled: value.unscaled } };
  }
  if (value instanceof Date) {
    return { timestampValue: toSeconds(value, key) };
  }
  if (value instanceof Uint8Array) {
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    return value instanceof Octets ? { octetsValue: bytes } : { bytesValue: bytes };
  }
  if (Array.isArray(value)) {
    return { arrayValue: { values: value.map((inner) => toField(inner, key)) } };
  }
  return { tableValue: { fields: toFields(value) } };
}

const halfPair = /\p{Surrogate}/u;

/** Throws a TypeError for a text that is not Unicode, as it has half of a surrogate pair. */
export function checkText(value: string | undefined, what: string): void {
  if (value !== undefined && halfPair.test(value)) {
    throw new TypeError(`${what}: a text with half of a surrogate pair cannot be sent`);
  }
}

// More than what a field takes beside its name, text, bytes and inner fields, in bytes.
const fieldOverhead = 32;

/** Returns a bound for the bytes that fields take in a request. */
export function sizeOfFields(fields: Fields | undefined): number {
  let bytes = 0;
  for (const [key, value] of Object.entries(fields ?? {})) {
    bytes += Buffer.byteLength(key) + sizeOfField(value);
  }
  return bytes;
}

function sizeOfField(field: FieldValue): number {
  const inner = field.arrayValue?.values.reduce((sum, value) => sum + sizeOfField(value), 0) ?? sizeOfFields(field.tableValue?.fields);
  return fieldOverhead + inner + Buffer.byteLength(field.stringValue ?? "") + (field.bytesValue ?? field.octetsValue ?? "").length;
}

/** Returns the seconds since 1970 of a date that is not before. */
export function toSeconds(date: Date, what: string): string {
  const seconds = Math.floor(date.getTime() / 1000);
  if (!(seconds >= 0)) {
    throw new RangeError(`${what}: a time before 1970 cannot be sent`);
  }
  return seconds.toString();
}

/** Turns the API's fields into a table. */
export function fromFields(fields: Fields | undefined): Table {
  const table: Table = {};
  for (const [key, value] of Object.entries(fields ?? {})) {
    set(table, key, fromField(value));
  }
  return table;
}

/** Sets a property whatever its name is, which others choose. */
function set<T>(object: Record<string, T>, key: string, value: T): void {
  if (key === "__proto__") {
    Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
  } else {
    object[key] = value;
  }
}

function fromField(field: FieldValue): Value {
  switch (field.kind) {
    case undefined:
      return null;
    case "int64Value":
      return toInteger(field.int64Value!);
    case "octetsValue":
      return new Octets(field.octetsValue!);
    case "timestampValue":
      return new Date(Number(field.timestampValue) * 1000);
    case "decimalValue":
      return new Decimal(field.decimalValue!.scale, field.decimalValue!.unscaled);
    case "arrayValue":
      return field.arrayValue!.values.map(fromField);
    case "tableValue":
      return fromFields(field.tableValue!.fields);
    default:
      return field[field.kind] as Value;
  }
}

function toInteger(text: string): number | bigint {
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : BigInt(text);
}
