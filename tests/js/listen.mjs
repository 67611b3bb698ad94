// Runs behind README's microphone: "records" the file that the first argument names, and prints what was shown and said.
import { readFileSync } from "node:fs";

const recording = readFileSync(process.argv[2]);
const size = Math.ceil(recording.length / 8);
globalThis.MediaRecorder = class {
  start() {
    for (let at = 0; at < recording.length; at += size)
      this.ondataavailable({ data: new Blob([recording.subarray(at, at + size)]) });
  }
  stop() {
    this.onstop();
  }
};
const tracks = [{ stop() {} }];
Object.defineProperty(globalThis, "navigator", {
  value: { mediaDevices: { getUserMedia: async () => ({ getTracks: () => tracks }) } },
});

const shown = {};
const { stop, answer } = await listen((index, chunk) => { shown[index] = chunk.text; }, { language: "en" });
stop();
console.log(JSON.stringify({ answer: await answer, shown: Object.values(shown) }));
socket.close();
