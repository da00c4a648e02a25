// What the programs share: `node SCRIPT SCENE BASE_URL ARGUMENTS` plays one scene. It says JSON lines, and goes on when told.
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export const say = (value) => void process.stdout.write(JSON.stringify(value ?? null) + "\n");

export async function told() {
  const { value, done } = await lines.next();
  if (done) throw new Error("nobody is there any more");
  return JSON.parse(value);
}

// How a call ends: its value, or what the application would see raised.
export async function outcome(promise) {
  try {
    return { value: await promise };
  } catch (error) {
    const { name, status, code, message } = error;
    return { raised: error.constructor.name, name, status, code, message };
  }
}

export async function play(scenes) {
  const [scene, baseURL, given] = process.argv.slice(2);
  await scenes[scene]({ baseURL, ...JSON.parse(given) });
  process.stdout.write("", () => process.exit(0)); // once everything is said
}
