// What a step tells its runner: workflow commands on standard output, and the command files.
import { randomUUID } from "node:crypto";
import { appendFileSync } from "node:fs";

/** Something that the job's author or the operator can mend; the message says what to do. */
export class Failure extends Error {}

/** The job was cancelled. */
export class Cancelled extends Failure {
  constructor() {
    super("The job was cancelled.");
  }
}

/** Runs a step; what it throws becomes an error of the job, and a line at most. */
export async function asStep(work) {
  try {
    await work();
  } catch (error) {
    process.exitCode = 1;
    if (error instanceof Failure) command("error", error.message);
    else command("error", `A bug in this action, please report it: ${error?.stack ?? error}`);
  }
}

/** From now on the runner shows *** in its place. */
export function mask(secret) {
  command("add-mask", secret);
}

export function warning(text) {
  command("warning", text);
}

/** A line of the log. The runner looks for commands in every line: only values that were checked go in here. */
export function info(text) {
  process.stdout.write(`${text}\n`);
}

export function saveState(name, value) {
  append("GITHUB_STATE", name, value);
}

export function setOutput(name, value) {
  append("GITHUB_OUTPUT", name, value);
}

export function exportVariable(name, value) {
  append("GITHUB_ENV", name, value);
}

/** A line break in the data would begin a command of its own. */
function command(name, data) {
  const escaped = data.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");
  process.stdout.write(`::${name}::${escaped}\n`);
}

/** The delimiter is not to be guessed: whoever wrote a part of the value could end it there, and set what they like. */
function append(variable, name, value) {
  const file = process.env[variable];
  if (!file) throw new Failure(`${variable} is not set: this has to be run by a GitHub Actions runner.`);
  const delimiter = `end_${randomUUID()}`;
  appendFileSync(file, `${name}<<${delimiter}\n${value}\n${delimiter}\n`);
}
