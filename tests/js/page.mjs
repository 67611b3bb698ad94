// Opens the server's page as a browser would, as far as its requests go, and prints what came of them as JSON.
// node page.mjs URL MESSAGE   sends that message as the page's form would, and follows it to its end.
import vm from "node:vm";

const [url, message] = process.argv.slice(2);
const location = new URL(url);
const asked = [];

/** An element, of which only what the page itself sets is remembered. */
function element() {
  const own = { hidden: true, textContent: "", value: "", files: [], children: [], classList: { add() {}, remove() {} } };
  for (const name of ["add", "replaceChildren", "pause", "load", "removeAttribute", "onchange"]) own[name] = () => {};
  own.appendChild = child => { own.children.push(child); return child; };
  return own;
}

/** Browsers say the page's origin with whatever is not a GET. */
function browserFetch(path, options = {}) {
  const target = new URL(path, location), method = options.method ?? "GET";
  asked.push(`${method} ${target.pathname}`);
  const headers = { ...options.headers, ...(method === "GET" ? {} : { Origin: location.origin }) };
  return fetch(target, { ...options, headers });
}

function storage() {
  const kept = new Map();
  return { getItem: key => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: key => kept.delete(key) };
}

const page = await (await fetch(location)).text();
const elements = new Map();
const context = vm.createContext({
  location, fetch: browserFetch, localStorage: storage(), sessionStorage: storage(), navigator: {}, Intl, URL, Blob,
  TextDecoderStream, setTimeout, AbortController, window: {}, confirm: () => true,
  Option: class { constructor(text, value) { Object.assign(this, { text, value }); } },
  document: {
    getElementById: id => elements.get(id) ?? elements.set(id, element()).get(id),
    createElement: element,
  },
});
vm.runInContext(page.match(/<script>([\s\S]*?)<\/script>/)[1], context);
context.message = JSON.parse(message);
const done = await vm.runInContext('TAKE.Testing = () => {}; work("Testing", () => submit(message))', context);
const error = elements.get("error");
console.log(JSON.stringify({ done, asked, error: error.hidden ? null : error.textContent }));
process.exit(0);
