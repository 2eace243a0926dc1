// The process behind the page: requests, streams, the token, and errors as the process words them.

const KEY = "adaptdock-token";
const BROKEN = "the answer broke off in the middle";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (secret) => sessionStorage.setItem(KEY, secret),
  forget: () => sessionStorage.removeItem(KEY),
};

export class Refused extends Error {
  constructor(message, status = 0, requestId = "") {
    super(message);
    this.status = status;
    this.requestId = requestId;
  }
}

/** Return the JSON that a request is answered with; throw Refused, or an AbortError. */
export async function call(path, { body, signal } = {}) {
  return whole((await send(path, body, signal)).json());
}

/** Yield the JSON of each event that a request is answered with, as it comes; throw as call does. */
export async function* stream(path, body, signal) {
  const reader = (await send(path, { ...body, stream: true }, signal)).body.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  for (;;) {
    const { done, value } = await whole(reader.read());
    waiting += decoder.decode(value, { stream: !done });
    const events = waiting.split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Refused(found.error.message);
      yield found;
    }
    if (done) throw new Refused(BROKEN);
  }
}

async function whole(reading) {
  try {
    return await reading;
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused(BROKEN);
  }
}

async function send(path, body, signal) {
  const headers = {};
  if (token.get()) headers.authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("the process cannot be reached");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const message = said?.error?.message ?? `${answer.status} ${answer.statusText}`;
  throw new Refused(message, answer.status, said?.request_id);
}
