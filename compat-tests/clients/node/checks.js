// Checks that go on after a difference: a line for each, and the exit status at the end.
"use strict";

const { isDeepStrictEqual, inspect } = require("node:util");

let differences = 0;

function shown(value) {
  const text = value instanceof Error ? `${value.name}: ${value.message}` : inspect(value);
  return text.length < 300 ? text : `${text.slice(0, 300)}...`;
}

function holds(what, isTrue, found = "it does not hold") {
  differences += isTrue ? 0 : 1;
  console.log(isTrue ? `ok ${what}` : `DIFFERENT ${what}: ${found.replaceAll("\n", " ")}`);
}

function same(what, got, expected) {
  holds(what, isDeepStrictEqual(got, expected), `${shown(got)} instead of ${shown(expected)}`);
}

// Compares what a function promises; a rejection is a difference.
async function check(what, run, expected) {
  try {
    same(what, await run(), expected);
  } catch (error) {
    holds(what, false, `${shown(error)} instead of ${shown(expected)}`);
  }
}

// Runs a check of several steps: false or a rejection is a difference.
async function attempt(what, run) {
  try {
    holds(what, (await run()) !== false);
  } catch (error) {
    holds(what, false, shown(error));
  }
}

// The promise must be rejected with an error that contains the text.
async function refused(what, text, run) {
  try {
    const got = await run();
    holds(what, false, `${shown(got)} instead of "${text}"`);
  } catch (error) {
    holds(what, error.message.includes(text), `${shown(error)} has no "${text}"`);
  }
}

function assert(isTrue, found) {
  if (!isTrue) throw new Error(`it does not hold: ${shown(found)}`);
}

// Runs the checks and ends the program; a program that hangs says where it stopped by its last line.
function main(checks) {
  checks().then(
    () => {
      console.log("done");
      process.exit(differences ? 1 : 0);
    },
    (error) => {
      console.log(`DIFFERENT: ${error.stack}`);
      process.exit(1);
    },
  );
}

module.exports = { assert, attempt, check, holds, main, refused, same };
