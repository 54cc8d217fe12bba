//! OpenMetrics, and the older text format for collectors that do not ask for it.

use std::fmt::Write as _;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the collector takes, and the text as it wants it.
pub(super) fn negotiated(accept: &str, openmetrics: String) -> (&'static str, String) {
    if accept.split(',').any(|kind| kind.trim().starts_with("application/openmetrics-text")) {
        (OPENMETRICS, openmetrics)
    } else {
        (CLASSIC, classic(&openmetrics))
    }
}

/// The same in the older format: there the family of a counter has the name of its samples.
pub(super) fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { continue };
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                let _ = writeln!(text, "# HELP {name}{suffix} {words}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "\
# HELP a_calls How many.
# TYPE a_calls counter
a_calls_total{end=\"ok\"} 3
# HELP a_build What it is.
# TYPE a_build info
a_build_info{version=\"1\"} 1
# HELP a_bytes How long.
# TYPE a_bytes gauge
a_bytes 5
# EOF
";

    #[test]
    fn a_collector_that_does_not_ask_for_openmetrics_gets_the_classic_format() {
        let old = "\
# HELP a_calls_total How many.
# TYPE a_calls_total counter
a_calls_total{end=\"ok\"} 3
# HELP a_build_info What it is.
# TYPE a_build_info gauge
a_build_info{version=\"1\"} 1
# HELP a_bytes How long.
# TYPE a_bytes gauge
a_bytes 5
";
        for accept in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(negotiated(accept, NEW.to_owned()), (CLASSIC, old.to_owned()), "{accept}");
        }
        let asks =
            "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5";
        assert_eq!(negotiated(asks, NEW.to_owned()), (OPENMETRICS, NEW.to_owned()));
    }
}
