//! The language of the configuration templates under `peers/`. All of its lines are comments of the
//! formats they stand in:
//!
//! ```text
//! listen ${LISTEN};
//! #if log
//! access_log ${ACCESS_LOG};
//! #else
//! access_log off;
//! #end
//! #each endpoint
//! server ${address};
//! #end
//! ```

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};

/// What a template is filled with.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// `${NAME}`.
    pub texts: BTreeMap<String, String>,
    /// `#if NAME`: what is in here is true.
    pub flags: BTreeSet<String>,
    /// `#each NAME`: the lines in between once for each row, whose texts win over the others.
    pub lists: BTreeMap<String, Vec<BTreeMap<String, String>>>,
}

impl Values {
    pub fn text(&mut self, name: &str, value: impl ToString) {
        self.texts.insert(name.into(), value.to_string());
    }

    pub fn flag(&mut self, name: &str, on: bool) {
        if on {
            self.flags.insert(name.into());
        }
    }
}

/// Fills in a template.
///
/// # Errors
/// With the line, when a name is unknown or a block is not closed.
pub fn render(template: &str, values: &Values) -> anyhow::Result<String> {
    let lines: Vec<(usize, &str)> = template.lines().enumerate().collect();
    let mut out = String::with_capacity(template.len());
    block(&lines, values, &BTreeMap::new(), &mut out)?;
    Ok(out)
}

fn block(
    lines: &[(usize, &str)],
    values: &Values,
    row: &BTreeMap<String, String>,
    out: &mut String,
) -> anyhow::Result<()> {
    let mut at = 0;
    while let Some((number, line)) = lines.get(at) {
        let place = || format!("line {}: {line}", number + 1);
        let Some(directive) = Directive::parse(line) else {
            substitute(line, values, row, out).with_context(place)?;
            at += 1;
            continue;
        };
        let inner = &lines[at + 1..];
        let Ends { r#else, end } = ends(inner).with_context(place)?;
        let (then, otherwise) = match r#else {
            Some(middle) => (&inner[..middle], &inner[middle + 1..end]),
            None => (&inner[..end], &inner[end..end]),
        };
        match directive {
            Directive::If { name, wanted } => {
                let chosen = if values.flags.contains(name) == wanted { then } else { otherwise };
                block(chosen, values, row, out)?;
            }
            Directive::Each(name) => {
                let rows = values.lists.get(name).with_context(|| format!("no list {name}"))?;
                for row in rows {
                    block(then, values, row, out)?;
                }
            }
        }
        at += 1 + end + 1;
    }
    Ok(())
}

enum Directive<'t> {
    If { name: &'t str, wanted: bool },
    Each(&'t str),
}

impl<'t> Directive<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("#if ") {
            let (name, wanted) = name.strip_prefix('!').map_or((name, true), |name| (name, false));
            return Some(Self::If { name, wanted });
        }
        line.strip_prefix("#each ").map(Self::Each)
    }
}

/// Where the `#else` and the `#end` of a block are.
struct Ends {
    r#else: Option<usize>,
    end: usize,
}

fn ends(lines: &[(usize, &str)]) -> anyhow::Result<Ends> {
    let (mut depth, mut middle) = (0_usize, None);
    for (at, (_, line)) in lines.iter().enumerate() {
        match line.trim() {
            "#end" if depth == 0 => return Ok(Ends { r#else: middle, end: at }),
            "#end" => depth -= 1,
            "#else" if depth == 0 => middle = Some(at),
            _ if Directive::parse(line).is_some() => depth += 1,
            _ => {}
        }
    }
    bail!("no #end")
}

fn substitute(
    line: &str,
    values: &Values,
    row: &BTreeMap<String, String>,
    out: &mut String,
) -> anyhow::Result<()> {
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').context("no } after ${")?;
        let value = row.get(name).or_else(|| values.texts.get(name));
        out.push_str(before);
        out.push_str(value.with_context(|| format!("${{{name}}} is not known"))?);
        rest = after;
    }
    out.push_str(rest);
    out.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let mut values = Values::default();
        values.text("PORT", 80);
        values.flag("log", true);
        values.flag("tls", false);
        let row = |n: &str| BTreeMap::from([("n".to_owned(), n.to_owned())]);
        values.lists.insert("route".into(), vec![row("a"), row("b")]);
        values
    }

    #[test]
    fn names_are_replaced() {
        assert_eq!(render("listen ${PORT}; x${PORT}", &values()).unwrap(), "listen 80; x80\n");
    }

    #[test]
    fn only_the_branch_that_holds_is_kept() {
        let template =
            "#if log\nlog\n#else\nquiet\n#end\n#if tls\ntls\n#end\n#if !tls\nplain\n#end";
        assert_eq!(render(template, &values()).unwrap(), "log\nplain\n");
    }

    #[test]
    fn a_list_repeats_its_lines_and_blocks_nest() {
        let template = "#each route\n#if log\nr-${n}:${PORT}\n#end\n#end\nlast";
        assert_eq!(render(template, &values()).unwrap(), "r-a:80\nr-b:80\nlast\n");
    }

    #[test]
    fn what_is_not_known_is_an_error_with_its_line() {
        for template in ["ok\n${NO}", "ok\n#each no\n#end", "ok\n#if log\n"] {
            let error = format!("{:#}", render(template, &values()).unwrap_err());
            assert!(error.starts_with("line 2") || error.contains("no list"), "{error}");
        }
    }
}
