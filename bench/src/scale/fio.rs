//! fio: what the disk gives a program that does nothing but ask it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A job of one kind of request, direct and over io_uring as zdb's own.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// `randread`, `read` or `write`.
    pub kind: &'static str,
    pub files: &'a [PathBuf],
    pub block_bytes: u64,
    pub depth: usize,
    /// Bytes of all files together that are read or written; none: what is in them.
    pub bytes: Option<u64>,
    /// Goes on for so long, again and again over the same bytes; none: once over all bytes.
    pub seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub requests_per_s: f64,
    pub bytes_per_s: f64,
    /// Share of one core that fio itself took.
    pub cores: f64,
}

/// Runs fio on all cores: it stands for the disk, not for a program that shares a core.
pub fn run(fio: &Path, job: &Job) -> Result<Rate> {
    let mut command = Command::new(fio);
    let files: Vec<String> =
        job.files.iter().map(|file| file.display().to_string().replace(':', "\\:")).collect();
    command.arg("--name=bench").arg(format!("--filename={}", files.join(":")));
    command.arg(format!("--rw={}", job.kind)).arg(format!("--bs={}", job.block_bytes));
    command.arg(format!("--iodepth={}", job.depth));
    if let Some(bytes) = job.bytes {
        command.arg(format!("--size={bytes}"));
    }
    command.args(["--direct=1", "--ioengine=io_uring", "--output-format=json"]);
    command.args(["--randrepeat=0", "--norandommap", "--file_service_type=sequential"]);
    let last_core = crate::server::core_count() - 1;
    command.arg(format!("--cpus_allowed=0-{last_core}"));
    if job.kind != "write" {
        command.arg("--readonly");
    }
    if let Some(seconds) = job.seconds {
        let runtime_ms = (seconds * 1e3) as u64;
        command.arg("--time_based").arg(format!("--runtime={runtime_ms}ms"));
    }
    let output = command.stdin(Stdio::null()).output().context("cannot run fio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "fio failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    read(&text, if job.kind == "write" { "write" } else { "read" })
        .with_context(|| format!("fio printed no result: {}", text.trim()))
}

/// fio may print lines of its own before the JSON.
fn read(text: &str, kind: &str) -> Option<Rate> {
    let value: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let job = value.get("jobs")?.get(0)?;
    let number = |of: &Value, name: &str| of.get(name)?.as_f64();
    let rate = job.get(kind)?;
    Some(Rate {
        requests_per_s: number(rate, "iops")?,
        bytes_per_s: number(rate, "bw_bytes")?,
        cores: (number(job, "usr_cpu")? + number(job, "sys_cpu")?) / 100.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_fio() {
        let text = "fio: a note\n{\"jobs\":[{\"read\":{\"iops\":100.5,\"bw_bytes\":411648},\
                    \"usr_cpu\":10.0,\"sys_cpu\":40.0}]}";
        let rate = read(text, "read").unwrap();
        assert_eq!((rate.requests_per_s, rate.bytes_per_s, rate.cores), (100.5, 411_648.0, 0.5));
        assert!(read(text, "write").is_none());
        assert!(read("fio: no such file", "read").is_none());
    }
}
