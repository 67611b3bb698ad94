// Talks to a server as a JavaScript program would, and prints what it heard as one line of JSON.
// node contract.mjs URL TRANSPORT FILE
import { readFile } from "node:fs/promises";
import { io } from "socket.io-client";

const [url, transport, path] = process.argv.slice(2);
const content = await readFile(path);
const socket = io(url, { transports: [transport] });
const heard = [];
const waiting = new Map();

for (const event of ["partial", "message"]) {
  socket.on(event, (body) => {
    heard.push([event, body]);
    if (event === "message" && body.seq) waiting.get(body.id)?.(body);
  });
}

/** The acknowledgement of a message, and its final answer. */
async function ask(message) {
  const answer = new Promise((resolve) => waiting.set(message.id, resolve));
  const accepted = await socket.timeout(30_000).emitWithAck("message", message);
  return { accepted, answer: accepted.status === "accepted" ? await answer : null };
}

const session = await new Promise((resolve) => socket.once("session", resolve));

const form = new FormData();
form.append("file", new Blob([content]), "größe 1.flac");
const upload = await fetch(`${url}/files`, {
  method: "POST",
  body: form,
  headers: { Authorization: `Bearer ${session.token}` },
}).then((response) => response.json());

const byContent = await ask({ type: "whisp", file: content, id: "content", language: "en" });
const byUpload = await ask({ type: "whisp", file: upload.file_id, id: "upload", language: "en" });
const refused = await ask({ type: "whisp", file: "absent.flac", id: "absent" });
const burst = await Promise.all(
  Array.from({ length: 60 }, (_, id) => ask({ type: "contract_echo", id, result_bytes: id })),
);
const large = await ask({ type: "contract_echo", id: "large", partials: 50, partial_bytes: 50_000 });
const tooLarge = await ask({ type: "whisp", file: Buffer.alloc(5_000_000), id: "too large" });

console.log(
  JSON.stringify({
    transport: socket.io.engine.transport.name,
    session,
    upload,
    byContent,
    byUpload,
    refused,
    burst: burst.map(({ answer }) => [answer.id, answer.echo.text.length]),
    tooLarge,
    seqs: heard.filter(([, body]) => body.job_id === large.answer.job_id).map(([, body]) => body.seq),
    partials: heard.filter(([event, body]) => event === "partial" && body.id === "content").map(([, body]) => body.data),
  }),
);
socket.close();
