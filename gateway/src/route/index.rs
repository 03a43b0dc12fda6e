//! The first route that matches, without trying them all.
//!
//! Every route is filed under something its requests must have: its exact path, its prefix, and, where
//! many share one, an exact method, host, header or query parameter. A search gathers the few lists a
//! request can be filed in and tries them in the order of the configuration, so that it never tries a
//! route that a scan would not have tried. A test compares it with that scan.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use http::HeaderName;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use weir_config::model::{
    matcher::StringMatch,
    route::{PathMatch, RouteMatch},
};

use super::{
    matcher::{Subject, conditions_match, has_conditions, matches},
    prefix_map::PrefixMap,
};

/// No position.
const NONE: u32 = u32::MAX;
/// Fewer routes are tried one after the other.
const WORTH_FILING: usize = 5;
/// So many are looked at one by one.
const FEW: usize = 8;

/// Positions of routes in their list, by what requests must have to match.
#[derive(Debug)]
pub(super) struct RouteIndex {
    paths: PathIndex,
    /// Paths in lower case of routes that ignore it.
    folded: Option<PathIndex>,
    /// Routes with a regular expression for a path.
    patterns: Bucket,
}

impl RouteIndex {
    pub(super) fn new(matchers: &[&RouteMatch]) -> Self {
        let mut paths = Filing::default();
        let mut folded = Filing::default();
        let mut patterns = Vec::new();
        for (position, matcher) in (0..).zip(matchers) {
            let fold = matcher.ignore_path_case;
            let filing = if fold { &mut folded } else { &mut paths };
            let spelled = |path: &str| -> Box<str> {
                if fold { path.to_ascii_lowercase().into() } else { path.into() }
            };
            match &matcher.path {
                PathMatch::Any => paths.prefixes.entry("".into()).or_default().push(position),
                PathMatch::Exact(path) => {
                    filing.exact.entry(spelled(path)).or_default().push(position)
                }
                PathMatch::Prefix(path) => {
                    filing.prefixes.entry(spelled(path)).or_default().push(position)
                }
                PathMatch::SegmentPrefix(path) => {
                    let path = path.trim_end_matches('/');
                    filing.exact.entry(spelled(path)).or_default().push(position);
                    filing.prefixes.entry(spelled(&format!("{path}/"))).or_default().push(position);
                }
                PathMatch::Regex(_) => patterns.push(position),
            }
        }
        let folded = PathIndex::new(folded, matchers);
        Self {
            paths: PathIndex::new(paths, matchers),
            folded: (!folded.is_empty()).then_some(folded),
            patterns: Bucket::new(patterns, matchers, &mut Vec::new()),
        }
    }

    /// The position of the first matching route.
    pub(super) fn find(&self, matchers: &impl Matchers, subject: Subject<'_>) -> Option<usize> {
        let mut search = Search { subject, best: NONE, lists: SmallVec::new() };
        self.paths.search(subject.path(), &mut search);
        if let Some(folded) = &self.folded {
            folded.search(&subject.path().to_ascii_lowercase(), &mut search);
        }
        self.patterns.search(&mut search);
        let found = search.first_match(matchers);
        (found != NONE).then_some(found as usize)
    }
}

/// The list the positions are of.
pub(super) trait Matchers {
    fn matcher(&self, position: usize) -> &RouteMatch;
}

/// Where the first match may be.
struct Search<'a> {
    subject: Subject<'a>,
    /// The smallest position known to match.
    best: u32,
    /// Ascending positions that may match.
    lists: SmallVec<[&'a [u32]; FEW]>,
}

impl<'a> Search<'a> {
    fn add(&mut self, list: &'a [u32]) {
        if list.first().is_some_and(|first| *first < self.best) {
            self.lists.push(list);
        }
    }

    fn first_match(self, matchers: &impl Matchers) -> u32 {
        let Self { subject, best, mut lists } = self;
        let is_match = |position: u32| fits(matchers.matcher(position as usize), subject);
        if lists.len() > FEW {
            return first_match_of_many(&lists, best, is_match);
        }
        loop {
            let next = lists.iter_mut().min_by_key(|list| list.first().copied().unwrap_or(NONE));
            let Some((&position, rest)) = next.as_ref().and_then(|list| list.split_first()) else {
                return best;
            };
            if position >= best || is_match(position) {
                return position.min(best);
            }
            if let Some(list) = next {
                *list = rest;
            }
        }
    }
}

/// As above, where looking at the heads of all lists each time would take too long: many prefixes of
/// one path, each with routes that need more than the path.
fn first_match_of_many(lists: &[&[u32]], best: u32, is_match: impl Fn(u32) -> bool) -> u32 {
    let mut heads: BinaryHeap<_> = lists.iter().map(|list| Reverse(*list)).collect();
    while let Some(Reverse(list)) = heads.pop() {
        let Some((&position, rest)) = list.split_first() else { continue };
        if position >= best {
            break;
        }
        if is_match(position) {
            return position;
        }
        heads.push(Reverse(rest));
    }
    best
}

/// Positions by path, before they are sorted further.
#[derive(Default)]
struct Filing {
    exact: FxHashMap<Box<str>, Vec<u32>>,
    prefixes: FxHashMap<Box<str>, Vec<u32>>,
}

#[derive(Debug)]
struct PathIndex {
    exact: FxHashMap<Box<str>, Bucket>,
    prefixes: PrefixMap<PrefixEntry>,
}

/// What a path with this prefix may match.
#[derive(Debug)]
struct PrefixEntry {
    bucket: Bucket,
    /// The smallest position here and at the prefixes of this prefix that needs nothing but the path.
    unconditional: u32,
    /// The smallest of all positions here and at the prefixes of this prefix.
    first: u32,
    /// The longest prefix of this one with routes that need more than the path.
    above: u32,
}

impl PathIndex {
    fn new(filing: Filing, matchers: &[&RouteMatch]) -> Self {
        let exact = filing.exact.into_iter().map(|(path, positions)| {
            let bucket = Bucket::new(positions, matchers, &mut Vec::new());
            (path, bucket)
        });
        let prefixes = PrefixMap::new(filing.prefixes.into_iter().collect());
        let prefixes = prefixes.map(|mut positions, parent: Option<(u32, &PrefixEntry)>| {
            let (inherited, first) =
                parent.map_or((NONE, NONE), |(_, entry)| (entry.unconditional, entry.first));
            // Whatever comes here has been taken by a shorter prefix.
            positions.retain(|position| *position < inherited);
            let bucket = Bucket::new(positions, matchers, &mut Vec::new());
            PrefixEntry {
                unconditional: inherited.min(bucket.unconditional),
                first: first.min(bucket.first),
                above: match parent {
                    Some((index, entry)) if entry.bucket.has_conditional() => index,
                    Some((_, entry)) => entry.above,
                    None => NONE,
                },
                bucket,
            }
        });
        Self { exact: exact.collect(), prefixes }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    fn search<'a>(&'a self, path: &str, search: &mut Search<'a>) {
        if let Some(bucket) = self.exact.get(path) {
            bucket.search(search);
        }
        let Some(mut at) = self.prefixes.longest(path) else { return };
        search.best = search.best.min(self.prefixes.value(at).unconditional);
        loop {
            let entry = self.prefixes.value(at);
            if entry.first >= search.best {
                return;
            }
            entry.bucket.search(search);
            if entry.above == NONE {
                return;
            }
            at = entry.above;
        }
    }
}

/// Routes whose paths are settled, or are patterns; by what else they need.
#[derive(Debug)]
struct Bucket {
    /// The smallest position in here.
    first: u32,
    /// The position of a route that needs nothing more. Later ones are never reached and are left out.
    unconditional: u32,
    /// Tried in order.
    listed: Box<[u32]>,
    filed: Option<Box<Filed>>,
}

/// Routes by one exact value each.
#[derive(Debug, Default)]
struct Filed {
    method: ByValue,
    authority: ByValue,
    headers: FxHashMap<HeaderName, ByValue>,
    query_params: FxHashMap<Arc<str>, ByValue>,
}

type ByValue = FxHashMap<Arc<str>, Bucket>;

/// Something of a request that a route can be filed under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Field {
    Method,
    Authority,
    Header(HeaderName),
    QueryParam(Arc<str>),
}

impl Bucket {
    /// `used` are the fields the positions have been filed under already.
    fn new(mut positions: Vec<u32>, matchers: &[&RouteMatch], used: &mut Vec<Field>) -> Self {
        let matcher = |position: u32| matchers[position as usize];
        let free = positions.iter().position(|&position| is_settled(matcher(position)));
        let unconditional = free.map_or(NONE, |free| positions[free]);
        let first = positions.first().copied().unwrap_or(NONE);
        positions.truncate(free.unwrap_or(positions.len()));
        if positions.len() < WORTH_FILING {
            return Self { first, unconditional, listed: positions.into(), filed: None };
        }
        let mut sizes: FxHashMap<(Field, Arc<str>), usize> = FxHashMap::default();
        for &position in &positions {
            for key in keys(matcher(position), used) {
                *sizes.entry(key).or_default() += 1;
            }
        }
        let mut listed = Vec::new();
        let mut groups: FxHashMap<(Field, Arc<str>), Vec<u32>> = FxHashMap::default();
        for &position in &positions {
            // Where there is the least company. A key they all have sorts nothing.
            let smallest = keys(matcher(position), used)
                .into_iter()
                .min_by_key(|key| sizes[key])
                .filter(|key| sizes[key] < positions.len());
            match smallest {
                Some(key) => groups.entry(key).or_default().push(position),
                None => listed.push(position),
            }
        }
        let mut filed = Filed::default();
        for ((field, value), group) in groups {
            used.push(field.clone());
            let bucket = Self::new(group, matchers, used);
            used.pop();
            filed.by_value(field).insert(value, bucket);
        }
        Self { first, unconditional, listed: listed.into(), filed: Some(Box::new(filed)) }
    }

    fn has_conditional(&self) -> bool {
        !self.listed.is_empty() || self.filed.is_some()
    }

    fn search<'a>(&'a self, search: &mut Search<'a>) {
        if self.first >= search.best {
            return;
        }
        search.best = search.best.min(self.unconditional);
        search.add(&self.listed);
        if let Some(filed) = &self.filed {
            filed.search(search);
        }
    }
}

impl Filed {
    fn by_value(&mut self, field: Field) -> &mut ByValue {
        match field {
            Field::Method => &mut self.method,
            Field::Authority => &mut self.authority,
            Field::Header(name) => self.headers.entry(name).or_default(),
            Field::QueryParam(name) => self.query_params.entry(name).or_default(),
        }
    }

    fn search<'a>(&'a self, search: &mut Search<'a>) {
        let Self { method, authority, headers, query_params } = self;
        let subject = search.subject;
        let mut look = |by_value: &'a ByValue, value: &str| {
            if let Some(bucket) = by_value.get(value) {
                bucket.search(search);
            }
        };
        if !method.is_empty() {
            look(method, subject.request.method.as_str());
        }
        if !authority.is_empty() {
            look(authority, subject.authority());
        }
        if headers.len() <= FEW {
            for (name, by_value) in headers {
                if let Some(value) = subject.header(name) {
                    look(by_value, &value);
                }
            }
        } else {
            for name in subject.request.headers.names() {
                if let (Some(by_value), Some(value)) = (headers.get(name), subject.header(name)) {
                    look(by_value, &value);
                }
            }
        }
        if query_params.len() <= FEW {
            for (name, by_value) in query_params {
                if let Some(value) = subject.query_param(name) {
                    look(by_value, value);
                }
            }
        } else {
            for (name, value) in first_values(subject) {
                if let Some(by_value) = query_params.get(name) {
                    look(by_value, value);
                }
            }
        }
    }
}

/// The first value of each query parameter. Clients choose these names: they are hashed with a secret.
fn first_values<'a>(subject: Subject<'a>) -> HashMap<&'a str, &'a str> {
    let mut first = HashMap::new();
    for (name, value) in subject.query_pairs() {
        first.entry(name).or_insert(value);
    }
    first
}

/// Whether a route matches wherever its path has been found to.
fn is_settled(matcher: &RouteMatch) -> bool {
    !matches!(matcher.path, PathMatch::Regex(_)) && !has_conditions(matcher)
}

/// Whether a route found by its path matches. A pattern is no key, so it is still to be tried.
fn fits(matcher: &RouteMatch, subject: Subject<'_>) -> bool {
    match matcher.path {
        PathMatch::Regex(_) => matches(matcher, subject),
        _ => conditions_match(matcher, subject),
    }
}

/// What a request must have, exactly, to match.
fn keys(matcher: &RouteMatch, used: &[Field]) -> SmallVec<[(Field, Arc<str>); 4]> {
    fn exact(value: &StringMatch) -> Option<&Arc<str>> {
        match value {
            StringMatch::Exact(value) => Some(value),
            _ => None,
        }
    }
    let method = matcher.method.iter().map(|value| (Field::Method, value));
    let authority = matcher.authority.iter().map(|value| (Field::Authority, value));
    let headers = matcher
        .headers
        .iter()
        .filter(|header| !header.invert)
        .map(|header| (Field::Header(header.name.clone()), &header.value));
    let params = matcher
        .query_params
        .iter()
        .map(|param| (Field::QueryParam(Arc::clone(&param.name)), &param.value));
    method
        .chain(authority)
        .chain(headers)
        .chain(params)
        .filter_map(|(field, value)| Some((field, Arc::clone(exact(value)?))))
        .filter(|(field, _)| !used.contains(field))
        .collect()
}
