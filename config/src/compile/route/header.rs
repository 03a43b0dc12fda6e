//! Header operations -> HeaderMutation. `Host` among them is a rewrite of the authority.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;

use super::{Context, template};
use crate::{
    api::istio::http_route::{HeaderOperations, Headers},
    model::route::{HeaderMutation, HeaderTemplate},
};

#[derive(Default)]
pub(super) struct CompiledHeaders {
    pub(super) request: HeaderMutation,
    pub(super) response: HeaderMutation,
    /// The `Host` or `:authority` that is set, else added.
    pub(super) host: Option<Arc<str>>,
}

pub(super) fn compile(
    context: &mut Context<'_>,
    headers: Option<&Headers>,
    field: &str,
) -> CompiledHeaders {
    let Some(headers) = headers else { return CompiledHeaders::default() };
    let host = headers.request.as_ref().and_then(|operations| {
        let mut all = operations.set.iter().chain(&operations.add);
        all.find(|(name, _)| is_host(name)).map(|(_, value)| value.as_str().into())
    });
    CompiledHeaders {
        request: mutation(context, headers.request.as_ref(), &format!("{field}.request")),
        response: mutation(context, headers.response.as_ref(), &format!("{field}.response")),
        host,
    }
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn mutation(
    context: &mut Context<'_>,
    operations: Option<&HeaderOperations>,
    field: &str,
) -> HeaderMutation {
    let Some(operations) = operations else { return HeaderMutation::default() };
    let mut remove = Vec::with_capacity(operations.remove.len());
    for (index, name) in operations.remove.iter().enumerate() {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => remove.push(name),
            Err(_) => {
                let field = format!("{field}.remove[{index}]");
                context.warn(field, format!("{name:?} is not a header that can be removed"));
            }
        }
    }
    HeaderMutation {
        set: templates(context, &operations.set, &format!("{field}.set")),
        add: templates(context, &operations.add, &format!("{field}.add")),
        remove: remove.into(),
    }
}

/// The values by name, sorted (istio-compat trap 25).
fn templates(
    context: &mut Context<'_>,
    values: &BTreeMap<String, String>,
    field: &str,
) -> Arc<[(HeaderName, HeaderTemplate)]> {
    let mut templates = Vec::with_capacity(values.len());
    for (name, value) in values.iter().filter(|(name, _)| !is_host(name)) {
        let field = format!("{field}[{name}]");
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            context.warn(field, format!("{name:?} is not a header name; it is not sent"));
            continue;
        };
        let mut problems = Vec::new();
        let template = template::parse(value, &mut problems);
        for problem in problems {
            context.warn(&field, problem);
        }
        templates.extend(template.map(|template| (name, template)));
    }
    templates.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    templates.into()
}
