//! Charts as inline SVG: bars for figures, curves for latencies.

use std::fmt::Write as _;

use crate::{peer::Peer, table::number};

const WIDTH: f64 = 640.0;
const LABEL: f64 = 90.0;
const BAR: f64 = 22.0;

/// Where the quantile axis ends: 99.99 %.
const NINES: f64 = 4.0;

/// A bar for each proxy, from zero, with the spread of its samples.
pub fn bars(rows: &[(Peer, f64, &[f64])], title: &str) -> String {
    let most = rows.iter().flat_map(|(_, value, samples)| samples.iter().chain([value]).copied());
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LABEL + value.max(0.0) / most * (WIDTH - LABEL - 80.0);
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    let height = rows.len() as f64 * (BAR + 6.0) + 4.0;
    let mut svg = open(height, title);
    let mut y = 2.0;
    for (peer, value, samples) in rows {
        let middle = y + BAR / 2.0;
        let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = samples.iter().copied().fold(0.0, f64::max);
        let _ = write!(
            svg,
            "<text x='0' y='{text:.0}'>{peer}</text>\
             <rect class='{peer}' x='{LABEL}' y='{y:.0}' width='{width:.1}' height='{BAR}'/>\
             <line x1='{low:.1}' x2='{high:.1}' y1='{middle:.0}' y2='{middle:.0}'/>\
             <text x='{end:.0}' y='{text:.0}'>{value}</text>",
            text = middle + 4.0,
            width = (x(*value) - LABEL).max(0.5),
            low = x(least.min(*value)),
            high = x(largest),
            end = x(largest.max(*value)) + 6.0,
            value = number(*value),
        );
        y += BAR + 6.0;
    }
    svg.push_str("</svg>");
    svg
}

/// Latency by quantile, both axes logarithmic: each step to the right is a tenth of the requests.
pub fn curves(curves: &[(Peer, &[(f64, f64)])], title: &str) -> String {
    const HEIGHT: f64 = 240.0;
    const BOTTOM: f64 = HEIGHT - 24.0;
    let values = || curves.iter().flat_map(|(_, curve)| curve.iter().map(|(_, us)| us.max(1.0)));
    let low = values().fold(f64::INFINITY, f64::min).log10().floor();
    let high = values().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
    let x = |quantile: f64| {
        let nines = -(1.0 - quantile).max(1e-9).log10();
        LABEL + nines.clamp(0.0, NINES) / NINES * (WIDTH - LABEL - 10.0)
    };
    let y = |us: f64| BOTTOM - (us.max(1.0).log10() - low) / (high - low) * (BOTTOM - 10.0);
    let mut svg = open(HEIGHT, title);
    for (quantile, label) in
        [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")]
    {
        let x = x(quantile);
        let _ = write!(
            svg,
            "<line class='grid' x1='{x:.0}' x2='{x:.0}' y1='10' y2='{BOTTOM}'/>\
             <text x='{x:.0}' y='{HEIGHT}' text-anchor='middle'>{label}</text>"
        );
    }
    let mut decade = low;
    while decade <= high {
        let us = 10_f64.powf(decade);
        let _ = write!(
            svg,
            "<line class='grid' x1='{LABEL}' x2='{WIDTH}' y1='{y:.0}' y2='{y:.0}'/>\
             <text x='0' y='{text:.0}'>{label}</text>",
            y = y(us),
            text = y(us) + 4.0,
            label = if us >= 1000.0 { format!("{} ms", us / 1000.0) } else { format!("{us} µs") },
        );
        decade += 1.0;
    }
    for (peer, curve) in curves {
        let within = curve.iter().filter(|(quantile, _)| *quantile < 1.0);
        let points: Vec<String> =
            within.map(|(q, us)| format!("{:.1},{:.1}", x(*q), y(*us))).collect();
        let _ = write!(svg, "<polyline class='{peer}' points='{}'/>", points.join(" "));
    }
    svg.push_str("</svg>");
    svg
}

fn open(height: f64, title: &str) -> String {
    format!("<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_the_largest_value() {
        let svg = bars(&[(Peer::Weir, 5.0, &[5.0]), (Peer::Envoy, 10.0, &[10.0])], "cost");
        let widths: Vec<f64> = svg
            .split(" width='")
            .skip(1)
            .map(|rest| rest.split('\'').next().unwrap().parse().unwrap())
            .collect();
        let [weir, envoy] = widths[..] else { panic!("two bars in {svg}") };
        assert!((envoy / weir - 2.0).abs() < 0.01);
    }

    #[test]
    fn a_higher_latency_is_higher_up() {
        let curve = [(0.5, 100.0), (0.99, 1000.0)];
        let svg = curves(&[(Peer::Weir, &curve)], "latency");
        let points = svg.split("points='").nth(1).unwrap().split('\'').next().unwrap();
        let ys: Vec<f64> =
            points.split(' ').map(|p| p.split_once(',').unwrap().1.parse().unwrap()).collect();
        assert!(ys[1] < ys[0], "{points}");
    }
}
