// npm's `ollama`: runs the calls it is told; see ollama_python.py for their form.
// CLIENT_MODULES names the folder that holds node_modules.
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const { Ollama } = createRequire(process.env.CLIENT_MODULES + "/")("ollama");
let text = "";
for await (const piece of process.stdin) text += piece;
const told = JSON.parse(text);
const client = new Ollama({ host: told.url });
const steps = {}, answers = {};

async function run({ call, with: given = {}, leave_after }) {
  const message = (it) => ("answer_of" in it ? answers[it.answer_of].message : it);
  const sent = given.messages ? { ...given, messages: given.messages.map(message) } : given;
  const answer = await client[call](sent);
  if (!given.stream) return answer;
  const parts = [];
  for await (const part of answer) {
    parts.push(part);
    if (parts.length === leave_after) {
      answer.abort();
      break;
    }
  }
  return parts;
}

for (const call of told.calls) {
  await sleep(1000 * (call.wait_s ?? 0));
  try {
    steps[call.name] = answers[call.name] = (await run(call)) ?? null;
  } catch (error) {
    steps[call.name] = { failed: error.name, status: error.status_code ?? null, text: error.error ?? error.message };
  }
}
process.stdout.write(JSON.stringify(steps) + "\n");
