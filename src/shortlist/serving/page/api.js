/** Requests to the service as JSON, with tokens in memory and readable errors. */

const tokens = { read: "", write: "", admin: "" };

/** Keep a token (read, write or admin) in memory until the page closes, in no cookie or storage. */
export function useToken(value, door = "read") {
  tokens[door] = value.trim();
}

/** An error answer. code: the error code of the service, or "unreachable". */
export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** True if the token is missing or wrong. */
export const isLocked = ({ code }, door) =>
  code === "unauthorized" || (code === "forbidden" && tokens[door] !== "");

/** Request a route: GET without a body, POST with one. Throws Refused, or AbortError. */
export async function ask(path, body = undefined, signal = undefined, door = "read") {
  const token = tokens[door];
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (token) headers.authorization = `Bearer ${token}`;
  let status, text;
  try {
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : write(body),
      signal,
      credentials: "omit",
      cache: "no-store",
    });
    status = response.status;
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("unreachable", "The service does not answer. Is it still running?");
  }
  const value = read(text);
  if (status >= 200 && status < 300 && value !== undefined) return value;
  const code = value?.error?.code ?? "unreadable";
  throw new Refused(code, inWords(code, value?.error?.message ?? `it answered ${status}`, path, door));
}

const LOCKED = {
  read: "This service answers only with its token.",
  write: "The service accepts events only with its token for events.",
  admin: "The service shows this only with its administrator's token.",
};

function inWords(code, message, path, door) {
  switch (code) {
    case "unauthorized":
      return tokens[door] ? "The service does not take this token." : LOCKED[door];
    case "forbidden":
      return `The service does not allow this: ${message}.`;
    case "busy":
      return "The service is busy just now. Wait a moment and try again.";
    case "draining":
      return "The service is shutting down. Try again later.";
    case "not_ready":
      return "No bundle is loaded yet. Try again in a moment.";
    case "timeout":
      return "The request took too long to arrive. Try again.";
    case "not_found":
      return `The service has no ${path}: does this page belong to another version of the service?`;
    case "internal":
      return "The service failed on this request. Its log has the reason.";
    case "unreadable":
      return `The service sent an answer that this page cannot read (${message}).`;
    default:
      return `${message.charAt(0).toUpperCase()}${message.slice(1)}`;
  }
}

// Ids are whole numbers of up to 64 bits, and a JavaScript number holds 53: longer ones are read
// as BigInt, from the source text, and written back digit by digit.
const LONG = /(?<![.\d])\d{16,}(?![.\d])/;
const MARK = "\u0000whole:";
const MARKED = /"\\u0000whole:(-?\d+)"/g;

function read(text) {
  try {
    if (!LONG.test(text)) return JSON.parse(text);
    return JSON.parse(text, (_, value, context) =>
      typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source)
        ? BigInt(context.source)
        : value,
    );
  } catch {
    return undefined;
  }
}

function write(value) {
  const text = JSON.stringify(value, (_, part) =>
    typeof part === "bigint" ? `${MARK}${part}` : part,
  );
  return text.replace(MARKED, "$1");
}

/** Whether ids are whole numbers, told by one of them. */
export const isWhole = (id) => typeof id === "number" || typeof id === "bigint";

/** Text as an id: undefined where ids are whole numbers and this is none. */
export function idOf(text, whole) {
  if (!whole) return text;
  if (!/^-?\d{1,19}$/.test(text)) return undefined;
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : BigInt(text);
}
