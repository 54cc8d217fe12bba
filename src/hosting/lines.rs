//! What programs print, line by line, into the log of the node.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdout};

/// A longer line is logged as several.
const LINE_BYTES_MAX: u64 = 8 * 1024;
/// What a line costs beside its bytes.
const LINE_COST: usize = 128;
/// After so many bytes ...
const BURST_BYTES: usize = 64 * 1024;
/// ... a program that prints on has to wait this long, for the node has other things to do.
const PAUSE: Duration = Duration::from_millis(20);

/// Logs what a program prints until it has closed both.
pub(super) async fn copy(label: &str, out: Option<ChildStdout>, err: Option<ChildStderr>) {
    let say = |line: &str| tracing::info!("{label} | {line}");
    let out = async {
        if let Some(out) = out {
            lines(out, say).await;
        }
    };
    let err = async {
        if let Some(err) = err {
            lines(err, say).await;
        }
    };
    tokio::join!(out, err);
}

async fn lines(from: impl AsyncRead + Unpin, mut say: impl FnMut(&str)) {
    let mut from = BufReader::with_capacity(1024, from);
    let (mut line, mut burst) = (Vec::new(), 0);
    loop {
        line.clear();
        match (&mut from).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(read) => burst += read + LINE_COST,
        }
        say(&clean(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])));
        if burst >= BURST_BYTES {
            burst = 0;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Keeps what a program printed from steering the terminal of whoever reads the log.
fn clean(line: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\t';
    line.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(text: &[u8]) -> Vec<String> {
        let mut said = Vec::new();
        lines(text, |line| said.push(line.to_owned())).await;
        said
    }

    #[tokio::test]
    async fn a_line_is_one_line_also_the_last_without_an_end() {
        assert_eq!(said(b"one\r\n\ntwo").await, ["one", "", "two"]);
    }

    #[tokio::test]
    async fn what_is_no_text_is_shown_as_far_as_it_goes() {
        assert_eq!(said(b"caf\xe9\n\x1b[2J\ta\n").await, ["caf\u{fffd}", "\u{fffd}[2J\ta"]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_short_lines_slow_their_author_down_too() {
        let began = tokio::time::Instant::now();
        assert_eq!(said(&b"y\n".repeat(5050)).await.len(), 5050);
        assert_eq!(began.elapsed(), PAUSE * 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_without_end_is_cut_and_its_author_slowed_down() {
        let began = tokio::time::Instant::now();
        let said = said(&vec![b'x'; 1024 * 1024]).await;
        assert_eq!(said.len(), 128);
        assert!(said.iter().all(|line| line.len() == 8192));
        assert_eq!(began.elapsed(), PAUSE * 16);
    }
}
