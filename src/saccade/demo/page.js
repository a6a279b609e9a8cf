"use strict";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const show = (element, isShown) => { element.hidden = !isShown; };

let about = null;   // what the server said of the classifier
let asked = 0;      // counts the pictures: an answer that comes late is of an earlier one
let stream = null;  // of the camera

function say(id, text) {
  at(id).textContent = text;
}

function refuse(sentence) {
  asked += 1;
  show(at("result"), false);
  show(at("error"), true);
  say("error", sentence);
}

// Ask the server; throws the sentence that it refuses with.
async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, { method: "POST", body });
  } catch {
    throw "The program does not answer. Is `saccade demo` still running?";
  }
  const said = await response.json();
  if (said.error) throw said.error;
  return said;
}

async function classify(body, example) {
  if (body && body.size > about.largest_bytes) {
    refuse(`This file is too large: the limit is ${about.largest_bytes >> 20} MB.`);
    return;
  }
  const number = ++asked;
  const rest = example === undefined ? "" : `/examples/${example}`;
  show(at("error"), false);
  at("result").classList.add("waiting");
  try {
    const answer = await ask(`/answer${rest}`, body);
    if (number !== asked) return;
    showAnswer(answer, example);
    say("reason", "Looking for what decides ...");
    const heat = await ask(`/heat${rest}`, body);
    if (number === asked) showHeat(heat);
  } catch (sentence) {
    if (number === asked) refuse(String(sentence));
  }
}

function showAnswer(answer, example) {
  const first = answer.top[0];
  say("said", first ? `${first.class}, ${percent(first.probability)}` : `None of the ${about.noun}`);
  at("bars").replaceChildren(...answer.top.map(bar));
  say("truth", example === undefined ? "" : `The data set says: ${about.examples[example]}`);
  say("size", `The network sees ${answer.side} x ${answer.side} pixels of ${answer.width} x ${answer.height}.`);

  at("seen").src = answer.seen;
  at("seen").classList.toggle("tiny", answer.side < 64);
  show(at("heat"), false);
  show(at("switch"), false);
  say("reason", "");
  at("result").classList.remove("waiting");
  show(at("result"), true);
  // the whole card, or its beginning where the screen is smaller
  const fits = at("result").offsetHeight < window.innerHeight;
  at("result").scrollIntoView({ block: fits ? "nearest" : "start" });
}

function bar(line) {
  const item = document.createElement("li");
  const words = document.createElement("div");
  for (const text of [line.class, percent(line.probability)]) {
    const part = document.createElement("span");
    part.textContent = text;
    words.append(part);
  }

  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const drawn = svg("svg", { class: "bar", "aria-hidden": "true" });
  for (const width of [1, line.probability]) {
    drawn.append(svg("rect", { width: `${100 * width}%`, height: 8, rx: 4 }));
  }
  item.append(words, drawn);
  return item;
}

function showHeat(heat) {
  if (heat.map === null) {
    say("reason", `No single part decides: whatever part is covered, "${heat.class}" stays as probable.`);
    return;
  }
  at("heat").src = heat.map;
  at("heat").alt = `the parts that decide for ${heat.class}`;
  show(at("heat"), at("shown").checked);
  show(at("switch"), true);
  say("reason", `The redder, the more "${heat.class}" depends on it. With the most important part covered, `
    + `its probability falls from ${percent(heat.before)} to ${percent(heat.after)}.`);
}

async function switchOn() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    refuse(`The camera cannot be used: ${error.message || "the browser does not allow it"}.`);
    return;
  }
  at("video").srcObject = stream;
  show(at("live"), true);
}

function switchOff() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  show(at("live"), false);
}

function shoot() {
  const video = at("video");
  if (!video.videoWidth) return;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => classify(blob), "image/png");
}

function showExamples(shows) {
  at("examples").replaceChildren(...shows.map((name, place) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    button.type = "button";
    image.src = `/examples/${place}`;
    image.alt = `a validation image of ${name}`;
    button.append(image);
    button.addEventListener("click", () => classify(null, place));
    return button;
  }));
  show(at("begin"), shows.length > 0);
}

async function begin() {
  about = await (await fetch("/about")).json();
  say("name", `${about.name} (${about.network})`);
  const more = about.count - about.classes.length;
  say("classes", `It knows ${about.count} ${about.noun}: ${about.classes.join(", ")}${more > 0 ? ` and ${more} more` : ""}.`);
  showExamples(about.examples);

  at("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";  // the same file may be chosen again
    if (file) classify(file);
  });
  at("camera").addEventListener("click", switchOn);
  at("off").addEventListener("click", switchOff);
  at("shoot").addEventListener("click", shoot);
  at("shown").addEventListener("change", (event) => show(at("heat"), event.target.checked));

  // anywhere on the page: a browser would open a file that misses the box
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragover");
      if (kind !== "drop") return;
      const [file] = event.dataTransfer.files;
      if (file) classify(file);
      else refuse("This is no file. Save the picture first, and drop the file.");
    });
  }
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) classify(file);
  });
}

begin();
