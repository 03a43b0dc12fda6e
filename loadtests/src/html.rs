//! A result as one page: nothing is loaded from anywhere.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use crate::{
    chart,
    measure::{Better, Figure},
    peer::Peer,
    result::{CaseResult, RunResult},
    table::{main_figure, number, ratio_alone},
};

const STYLE: &str = "
:root{color-scheme:light dark;--text:#1b1f24;--page:#fff;--line:#d0d7de}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--page:#0d1117;--line:#30363d}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page);max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
td,th{border-bottom:1px solid var(--line);padding:.2rem .6rem;text-align:right}
td:first-child,th:first-child{text-align:left}
svg{max-width:40rem;width:100%;display:block;margin:.5rem 0;font-size:12px}
svg text{fill:var(--text)}
svg line{stroke:var(--text)}
svg .grid{stroke:var(--line)}
svg polyline{fill:none;stroke-width:2}
rect.weir{fill:#2563eb}rect.nginx{fill:#059669}rect.haproxy{fill:#d97706}rect.envoy{fill:#9333ea}
polyline.weir{stroke:#2563eb}polyline.nginx{stroke:#059669}polyline.haproxy{stroke:#d97706}polyline.envoy{stroke:#9333ea}
.key span{margin-right:1rem;font-weight:600}
.weir-key{color:#2563eb}.nginx-key{color:#059669}.haproxy-key{color:#d97706}.envoy-key{color:#9333ea}
.better{color:#059669}.worse{color:#dc2626}.note{opacity:.75}
";

/// Reads a result and writes its page.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(path: &Path, out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let result = RunResult::read(path)?;
    let out = out.unwrap_or_else(|| path.with_extension("html"));
    fs::write(&out, page(&result)).with_context(|| format!("write {}", out.display()))?;
    println!("written to {}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// The page.
pub fn page(result: &RunResult) -> String {
    let mut out = format!(
        "<!doctype html><html lang='en'><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width'>\
         <title>Weir loadtests</title><style>{STYLE}</style><h1>Weir beside other proxies</h1>"
    );
    environment(result, &mut out);
    overview(result, &mut out);
    for case in &result.cases {
        section(case, &mut out);
    }
    out.push_str("</html>\n");
    out
}

fn environment(result: &RunResult, out: &mut String) {
    let env = &result.environment;
    let _ = write!(
        out,
        "<p>{cpu}, {count} processors, kernel {kernel}; generator and origin on processor {a}, one \
         proxy with workers on so many processors from {b} on: {workers}. {quads} quads of \
         {seconds} s. Commit {commit}. Load average before: {load:.1}.</p><ul>",
        cpu = escape(&env.cpu),
        count = env.cpus_online,
        kernel = escape(&env.kernel),
        a = env.generator_cpu,
        b = env.proxy_cpu,
        workers = env.workers,
        quads = result.quads,
        seconds = result.seconds,
        commit = escape(env.commit.as_deref().unwrap_or("unknown")),
        load = env.load_average,
    );
    for program in &env.programs {
        let _ = write!(out, "<li>{}: {}</li>", program.peer, escape(&program.version));
    }
    for line in &env.missing {
        let _ = write!(out, "<li>{}</li>", escape(line));
    }
    out.push_str(
        "</ul><p class='note'>A ratio is Weir's figure divided by the peer's, with its 95 % \
                  interval; within 5 % it is a tie.</p>",
    );
}

fn overview(result: &RunResult, out: &mut String) {
    let peers = [Peer::Nginx, Peer::Haproxy, Peer::Envoy];
    out.push_str("<h2>Overview</h2><table><tr><th>case<th>figure");
    for peer in peers {
        let _ = write!(out, "<th>weir / {peer}");
    }
    for case in &result.cases {
        let Some(figure) = main_figure(case) else { continue };
        let _ = write!(out, "<tr><td><a href='#{0}'>{0}</a><td>{1}", case.name, figure.title());
        for peer in peers {
            cell(case, peer, figure, out);
        }
    }
    out.push_str("</table>");
}

fn section(case: &CaseResult, out: &mut String) {
    let _ = write!(out, "<h2 id='{}'>{}</h2>", case.name, escape(&case.title));
    if let Some(failure) = &case.failed {
        let _ = write!(out, "<p class='worse'>Failed: {}</p>", escape(failure));
    }
    if let Some(figure) = main_figure(case) {
        let rows = case.figures.iter().filter_map(|(peer, figures)| {
            let value = figures.get(&figure)?;
            Some((*peer, value.value, &value.samples[..]))
        });
        let title = format!("{}, {}", figure.title(), figure.unit(&case.unit));
        let _ = write!(out, "<p>{title}</p>{}", chart::bars(&rows.collect::<Vec<_>>(), &title));
    }
    if !case.latencies.is_empty() {
        let curves: Vec<_> = case.latencies.iter().map(|(peer, c)| (*peer, &c[..])).collect();
        out.push_str("<p class='key'>Latency at the fixed rate: ");
        for (peer, _) in &curves {
            let _ = write!(out, "<span class='{peer}-key'>{peer}</span>");
        }
        let _ = write!(out, "</p>{}", chart::curves(&curves, "latency by quantile"));
    }
    figures(case, out);
    notes(case, out);
}

fn figures(case: &CaseResult, out: &mut String) {
    let peers: Vec<Peer> = case.figures.keys().copied().collect();
    let others = || peers.iter().copied().filter(|peer| *peer != Peer::Weir);
    out.push_str("<table><tr><th>figure<th>unit");
    for peer in &peers {
        let _ = write!(out, "<th>{peer}");
    }
    for peer in others() {
        let _ = write!(out, "<th>weir / {peer}");
    }
    let all = case.figures.values().flat_map(|figures| figures.keys().copied());
    for figure in all.collect::<std::collections::BTreeSet<_>>() {
        let _ = write!(out, "<tr><td>{}<td>{}", figure.title(), figure.unit(&case.unit));
        for peer in &peers {
            let value = case.figures[peer].get(&figure);
            let _ = write!(
                out,
                "<td>{}",
                value.map_or_else(|| "-".into(), |value| number(value.value))
            );
        }
        for peer in others() {
            cell(case, peer, figure, out);
        }
    }
    out.push_str("</table>");
}

fn cell(case: &CaseResult, peer: Peer, figure: Figure, out: &mut String) {
    let ratio = case.ratios.get(&peer).and_then(|ratios| ratios.get(&figure));
    let Some(ratio) = ratio.filter(|_| figure.better() != Better::Neither) else {
        out.push_str("<td>-");
        return;
    };
    let class = match figure.better() {
        _ if ratio.is_tie() => "tie",
        Better::Less if ratio.ratio < 1.0 => "better",
        Better::More if ratio.ratio > 1.0 => "better",
        Better::Less | Better::More | Better::Neither => "worse",
    };
    let _ = write!(out, "<td class='{class}'>{}", ratio_alone(*ratio));
}

fn notes(case: &CaseResult, out: &mut String) {
    let mut lines = Vec::new();
    for (peer, growth) in &case.growth {
        if let Some(ratio) = growth.get(&Figure::Cpu) {
            lines.push(format!("{peer}: {} of its first case", ratio_alone(*ratio)));
        }
    }
    for (peer, reason) in &case.left_out {
        lines.push(format!("{peer} is not measured: {reason}"));
    }
    if !case.dropped.is_empty() {
        let kept = if case.unsteady { "none was steady" } else { "dropped" };
        lines.push(format!("quads, {kept}: {}", case.dropped.join("; ")));
    }
    for line in lines {
        let _ = write!(out, "<p class='note'>{}</p>", escape(&line));
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
