//! Every transcript, played to the server and to the model; and the runner, shown that it can fail.

use compat_tests::Model;
use compat_tests::transcript::{
    Action, ModelSubject, ServerSubject, Transcript, dir, load_all, paths, run, run_case,
};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn every_command_has_a_transcript() {
    let commands: BTreeSet<String> = Model::command_names().map(str::to_ascii_lowercase).collect();
    let files: BTreeSet<String> = paths(&dir())
        .iter()
        .map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, commands);
    for transcript in load_all() {
        assert!(transcript.cases.len() > 1, "{} has hardly a case", transcript.path.display());
    }
}

/// All transcripts, or those whose name contains `ZDB_TRANSCRIPT`.
fn selected() -> Vec<Transcript> {
    let mut transcripts = load_all();
    if let Ok(part) = std::env::var("ZDB_TRANSCRIPT") {
        transcripts.retain(|transcript| transcript.path.to_string_lossy().contains(&part));
        assert!(!transcripts.is_empty(), "ZDB_TRANSCRIPT={part} is in no name of a transcript");
    }
    transcripts
}

#[test]
fn the_model_answers_every_transcript() {
    let failed: Vec<String> = selected()
        .iter()
        .filter_map(|transcript| run(transcript, ModelSubject::new).err())
        .collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[test]
fn the_server_answers_every_transcript() {
    let transcripts = selected();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(transcript) = transcripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = run(transcript, ServerSubject::new) {
                        failed.lock().expect("no thread panics with the lock").push(error);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panicked with the lock");
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// A case in which any one expected reply is replaced by another one must fail.
#[test]
fn an_altered_reply_fails() {
    let mut alterations = 0;
    for transcript in load_all() {
        for case in &transcript.cases {
            for index in 0..case.steps.len() {
                let pushed = match &case.steps[index].action {
                    Action::Pushed { connection, .. } => Some(connection.clone()),
                    _ => None,
                };
                let (Action::Expect(pattern) | Action::Pushed { pattern, .. }) =
                    &case.steps[index].action
                else {
                    continue;
                };
                let altered = pattern.alterations();
                assert!(
                    !altered.is_empty(),
                    "{}:{}: this reply can be anything",
                    transcript.path.display(),
                    case.steps[index].line
                );
                for pattern in altered {
                    let mut case = case.clone();
                    let shown = format!("{pattern:?}");
                    case.steps[index].action = match &pushed {
                        Some(connection) => {
                            Action::Pushed { connection: connection.clone(), pattern }
                        }
                        None => Action::Expect(pattern),
                    };
                    assert!(
                        run_case(&case, &mut ModelSubject::new(&case)).is_err(),
                        "{}:{}: passes as {shown}",
                        transcript.path.display(),
                        case.steps[index].line
                    );
                    alterations += 1;
                }
            }
        }
    }
    assert!(alterations > 1000, "only {alterations} alterations were tried");
}

/// The same against the server, with one file: its replies are looked at as closely.
#[test]
fn an_altered_reply_fails_against_the_server() {
    let transcript = load_all()
        .into_iter()
        .find(|transcript| transcript.path.ends_with("get.txt"))
        .expect("get.txt");
    let mut case = transcript.cases[0].clone();
    run_case(&case, &mut ServerSubject::new(&case)).expect("the case passes as it stands");
    let last = case.steps.len() - 1;
    let Action::Expect(pattern) = case.steps[last].action.clone() else {
        panic!("a case ends with a reply")
    };
    for pattern in pattern.alterations() {
        case.steps[last].action = Action::Expect(pattern);
        run_case(&case, &mut ServerSubject::new(&case)).expect_err("an altered reply fails");
    }
}

/// What the format cannot mean is refused, with the line.
#[test]
fn a_malformed_transcript_is_refused() {
    for (source, error) in [
        ("> PING\n+PONG\n", "test.txt:1: a case begins with =="),
        ("== a case\n> PING\n", "the last request has no reply"),
        ("== a case\n+PONG\n", "test.txt:2: a reply without a request"),
        ("== a case\n> PING\na> PING\n+PONG\n", "test.txt:3: the request before has no reply"),
        ("== a case\n> PING\n! restart\n+PONG\n", "test.txt:3: the request before has no reply"),
        ("== a case\n> PING\nPONG\n", "test.txt:3: no reply begins like"),
        ("== a case\n> PING\n[\"a\"\n", "test.txt:3: a bracket is not closed"),
        ("== a case\n> GET \"a\n", "test.txt:2: a quote is not closed"),
        ("== a case\n> GET <nosuch>\n", "test.txt:2: unknown token <nosuch>"),
        ("== a case\n> GET \\q\n", "test.txt:2: unknown escape"),
        (
            "== a case\n> PING\n+PONG\n! server --admin x\n",
            "test.txt:4: the flags of the server come first",
        ),
        ("== a case\n> PING\n+PONG\n! before\n", "test.txt:4: a table has a case of its own"),
        ("== a case\n! before\n| | here |\n", "test.txt:3: no state here"),
        (
            "== a case\n! before\n! state here\n| | here |\n| > PING |\n",
            "test.txt:5: 1 columns, not 0",
        ),
        (
            "== a case\n! before\n! state here\n| | here |\n| PING | +PONG |\n",
            "test.txt:5: a line of",
        ),
        (
            "== a case\n! before\n! state here\n| | here |\n| > PING | here |\n",
            "test.txt:5: no reply begins",
        ),
        (
            "== a case\n! before\n! state here\n| | here |\n",
            "test.txt:4: the table above has no line",
        ),
        ("== a case\n! explode\n", "test.txt:2: unknown directive"),
    ] {
        let refusal = Transcript::parse(Path::new("test.txt"), source).expect_err(source);
        assert!(refusal.contains(error), "{source:?}: {refusal}");
    }
    let case = "== a case\n> GET ${never}\nnil\n";
    let transcript = Transcript::parse(Path::new("test.txt"), case).expect("it can be read");
    let error = run(&transcript, ModelSubject::new).expect_err("the variable was never captured");
    assert!(error.contains("no variable never"), "{error}");
}
