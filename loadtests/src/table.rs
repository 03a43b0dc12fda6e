//! Results as text.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use crate::{
    measure::{Better, Figure},
    peer::Peer,
    result::{CaseResult, RunResult},
    statistics::Ratio,
};

/// Below, requests queued up.
const RATE_HELD: f64 = 0.97;

/// One case: a row for each figure, a column for each proxy, Weir's ratio to each.
pub fn case(case: &CaseResult) -> String {
    let mut out = format!("\n{} - {}\n", case.name, case.title);
    if let Some(failure) = &case.failed {
        let _ = writeln!(out, "  FAILED: {failure}");
    }
    let peers: Vec<Peer> = case.figures.keys().copied().collect();
    let figures: BTreeSet<Figure> =
        case.figures.values().flat_map(|figures| figures.keys().copied()).collect();
    let _ = write!(out, "  {:<26} {:>16}", "", "");
    for peer in &peers {
        let _ = write!(out, " {peer:>11}");
    }
    for peer in peers.iter().filter(|peer| **peer != Peer::Weir) {
        let _ = write!(out, " {:>24}", format!("weir / {peer}"));
    }
    out.push('\n');
    for figure in figures {
        let _ = write!(out, "  {:<26} {:>16}", figure.title(), figure.unit(&case.unit));
        for peer in &peers {
            let value = case.figures[peer].get(&figure);
            let _ = write!(
                out,
                " {:>11}",
                value.map_or_else(|| "-".into(), |value| number(value.value))
            );
        }
        for peer in peers.iter().filter(|peer| **peer != Peer::Weir) {
            let ratio = case.ratios.get(peer).and_then(|ratios| ratios.get(&figure));
            let ratio = ratio.filter(|_| figure.better() != Better::Neither);
            let _ = write!(
                out,
                " {:>24}",
                ratio.map_or_else(|| "-".into(), |ratio| self::ratio(*ratio, figure))
            );
        }
        out.push('\n');
    }
    notes(case, &mut out);
    out
}

fn notes(case: &CaseResult, out: &mut String) {
    for (peer, growth) in &case.growth {
        if let Some(ratio) = growth.get(&Figure::Cpu) {
            let _ = writeln!(out, "  {peer}: {} of its first case", ratio_alone(*ratio));
        }
    }
    if let Some(p50) = case.direct.get(&Figure::LatencyP50) {
        let p99 = case.direct.get(&Figure::LatencyP99).copied().unwrap_or_default();
        let _ = writeln!(out, "  without a proxy: p50 {} µs, p99 {} µs", number(*p50), number(p99));
    }
    for (peer, reason) in &case.left_out {
        let reason = reason.lines().next().unwrap_or_default();
        let _ = writeln!(out, "  {peer} is not measured: {reason}");
    }
    if case.unsteady && case.failed.is_none() {
        let _ = writeln!(out, "  NOT STEADY, no quad counts: {}", case.dropped.join("; "));
    } else if !case.dropped.is_empty() {
        let _ = writeln!(out, "  {} quads dropped, {} kept", case.dropped.len(), case.quads_kept);
    }
    for (peer, figures) in &case.figures {
        if let Some(held) = figures.get(&Figure::RateHeld).filter(|held| held.value < RATE_HELD) {
            let percent = held.value * 100.0;
            let _ =
                writeln!(out, "  {peer} held {percent:.0} % of the rate: its latency is waiting");
        }
    }
    if generator_bound(case) {
        out.push_str("  at saturation the generator was the limit: throughput is at least this\n");
    }
}

/// Some proxy was not busy at saturation: what was measured is how much was sent.
fn generator_bound(case: &CaseResult) -> bool {
    let busy = case.figures.values().filter_map(|figures| figures.get(&Figure::Busy));
    busy.into_iter().any(|busy| busy.value < 0.95)
}

/// What to take away: the cost of each case against each peer.
pub fn summary(result: &RunResult, out: &Path) -> String {
    let peers: BTreeSet<Peer> =
        result.cases.iter().flat_map(|case| case.ratios.keys().copied()).collect();
    let mut text = format!("\n{:<32}", "weir / peer, processor time");
    for peer in &peers {
        let _ = write!(text, " {peer:>24}");
    }
    text.push('\n');
    for case in &result.cases {
        let Some(figure) = main_figure(case) else { continue };
        let _ = write!(text, "{:<32}", case.name);
        for peer in &peers {
            let ratio = case.ratios.get(peer).and_then(|ratios| ratios.get(&figure));
            let _ = write!(
                text,
                " {:>24}",
                ratio.map_or_else(|| "-".into(), |r| self::ratio(*r, figure))
            );
        }
        if figure != Figure::Cpu {
            let _ = write!(text, "  {}", figure.title());
        }
        // Nought is what it has to be, and has no ratio.
        if figure == Figure::Failed {
            let counts = case.figures.iter().filter_map(|(peer, figures)| {
                Some(format!(" {peer} {}", number(figures.get(&figure)?.value)))
            });
            text.extend(counts);
        }
        if case.unsteady {
            text.push_str("  not steady");
        }
        text.push('\n');
    }
    for case in result.cases.iter().filter(|case| case.failed.is_some()) {
        let _ =
            writeln!(text, "FAILED {}: {}", case.name, case.failed.as_deref().unwrap_or_default());
    }
    let _ = write!(text, "\nwritten to {0}/result.json and {0}/report.html", out.display());
    text
}

/// The figure a case is about.
pub fn main_figure(case: &CaseResult) -> Option<Figure> {
    let weir = case.figures.get(&Peer::Weir)?;
    Figure::MAIN.into_iter().find(|figure| weir.contains_key(figure))
}

/// `0.83 (0.80-0.86) better`
fn ratio(ratio: Ratio, figure: Figure) -> String {
    let verdict = match figure.better() {
        _ if ratio.is_tie() => "tie",
        Better::Less if ratio.ratio < 1.0 => "better",
        Better::More if ratio.ratio > 1.0 => "better",
        Better::Less | Better::More => "worse",
        Better::Neither => "",
    };
    format!("{} {verdict}", ratio_alone(ratio))
}

/// `0.83 (0.80-0.86)`
pub fn ratio_alone(ratio: Ratio) -> String {
    format!("{:.2} ({:.2}-{:.2})", ratio.ratio, ratio.low, ratio.high)
}

/// Three digits that matter.
pub fn number(value: f64) -> String {
    match value.abs() {
        x if x >= 100_000.0 => format!("{:.0}k", value / 1000.0),
        x if x >= 100.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_what_is_better() {
        let of = |ratio| Ratio { ratio, low: ratio, high: ratio };
        assert_eq!(ratio(of(0.8), Figure::Cpu), "0.80 (0.80-0.80) better");
        assert_eq!(ratio(of(0.8), Figure::Throughput), "0.80 (0.80-0.80) worse");
        assert_eq!(ratio(of(0.97), Figure::Cpu), "0.97 (0.97-0.97) tie");
    }

    #[test]
    fn numbers_have_three_digits_that_matter() {
        for (value, text) in
            [(1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234"), (123_456.0, "123k")]
        {
            assert_eq!(number(value), text);
        }
    }
}
