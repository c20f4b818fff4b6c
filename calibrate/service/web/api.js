// Requests to the service: the token, problems as errors, uploads with progress, pictures as blobs.

const KEY = "deepintuit-token";
const MAX_TRIES = 6;
const LONGEST_WAIT_S = 20;
let whenRefused = () => {};

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  drop: () => sessionStorage.removeItem(KEY),
};

export function onTokenRefused(call) {
  whenRefused = call;
}

// #token=... of the address, kept for this tab and taken from the address and its history at once.
export function takeTokenFromAddress() {
  const match = /^#token=([^&]+)/.exec(location.hash);
  if (!match) return;
  token.set(decodeURIComponent(match[1]));
  history.replaceState(null, "", location.pathname);
}

export class ProblemError extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail || problem.title || `The service answered ${status}`);
    Object.assign(this, { name: "ProblemError", status, problem, retryAfter });
    this.slug = String(problem.type ?? "").split(":").pop();
    this.title = problem.title || "The service refused this";
  }
}

function headers(more = {}) {
  const bearer = token.get();
  return { Accept: "application/json", ...(bearer ? { Authorization: `Bearer ${bearer}` } : {}), ...more };
}

function problemOf(status, text, retryAfter) {
  let problem = {};
  try {
    problem = JSON.parse(text) ?? {};
  } catch {
    problem = { title: "Unexpected answer", detail: `The service answered ${status}` };
  }
  if (status === 401) whenRefused();
  return new ProblemError(status, problem, Number(retryAfter) || null);
}

async function request(path, { json, ...options } = {}) {
  const body = json === undefined ? {} : { body: JSON.stringify(json) };
  const type = json === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, { ...options, ...body, headers: headers({ ...type, ...options.headers }), cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError(0, { title: "No connection", detail: "The service does not answer. Is it still running?" });
  }
  if (!response.ok) throw problemOf(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

export async function get(path, options) {
  return (await request(path, options)).json();
}

export async function send(method, path, json, options) {
  const response = await request(path, { method, json, ...options });
  return response.status === 204 ? null : response.json();
}

export async function blobUrl(path, options) {
  return URL.createObjectURL(await (await request(path, options)).blob());
}

function uploadOnce(path, form, { signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const sent = new XMLHttpRequest();
    sent.open("POST", path);
    for (const [name, value] of Object.entries(headers())) sent.setRequestHeader(name, value);
    sent.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    sent.upload.onload = () => onProgress(1);
    sent.onerror = () =>
      reject(new ProblemError(0, { title: "No connection", detail: "The service closed the connection. Is it still running?" }));
    sent.onabort = () => reject(new DOMException("stopped", "AbortError"));
    sent.onload = () => {
      if (sent.status < 300) resolve(JSON.parse(sent.responseText));
      else reject(problemOf(sent.status, sent.responseText, sent.getResponseHeader("Retry-After")));
    };
    signal?.addEventListener("abort", () => sent.abort());
    sent.send(form);
  });
}

export const upload = (path, form, options) => patiently(() => uploadOnce(path, form, options), options);
export const post = (path, json, options = {}) => patiently(() => send("POST", path, json, { signal: options.signal }), options);

// Waits as long as a full queue or a restarting engine asks for, a few times.
async function patiently(call, { signal, onWait = () => {} }) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await call();
    } catch (error) {
      const isBusy = error.status === 429 || error.status === 503;
      if (!isBusy || !error.retryAfter || error.retryAfter > LONGEST_WAIT_S || tries >= MAX_TRIES) throw error;
      onWait(error);
      await sleep(error.retryAfter * 1000, signal);
    }
  }
}

export function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

export function query(values) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") pairs.append(name, one);
  }
  const text = pairs.toString();
  return text ? `?${text}` : "";
}
