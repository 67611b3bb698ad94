// Runs behind README's player: speaks the first argument into an audio context that only takes notes, and prints them.
const pieces = [];
const notes = {
  currentTime: 0,
  destination: {},
  createBuffer: (channels, length, rate) => {
    const samples = new Float32Array(length);
    return { duration: length / rate, getChannelData: () => samples };
  },
  createBufferSource: () => ({
    connect() {},
    start(at) {
      pieces.push([at, this.buffer]);
    },
  }),
};
const answer = await speak({ text: process.argv[2], audio_format: "pcm" }, notes);
const refused = await speak({ text: "" }, notes).catch((error) => error.message);
const heard = pieces.flatMap(([, buffer]) => Array.from(buffer.getChannelData(0), (sample) => sample * 32768));
console.log(
  JSON.stringify({
    pieces: pieces.map(([at, buffer]) => [at, buffer.duration]),
    samples: Buffer.from(Int16Array.from(heard).buffer).toString("base64"),
    whole: answer.audio_data.toString("base64"),
    refused,
  }),
);
socket.close();
