//! Header operations of routes: remove, then set in order, then add in order (istio-compat 1.1
//! "headers"). Removing comes first, so that a field can be removed and written anew.

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;
use weir_config::model::route::HeaderMutation;

use super::template::{Source, evaluate};
use crate::{
    head::{RequestHeader, ResponseHeader},
    local_reply::LocalReply,
    telemetry::StreamInfo,
};

/// Applies `mutation` to a request on its way upstream.
pub fn apply_to_request(mutation: &HeaderMutation, request: &mut RequestHeader, info: &StreamInfo) {
    if mutation.is_empty() {
        return;
    }
    // Operators see the fields as they were before this mutation.
    let written = evaluated(mutation, Source::of_request(request, info));
    for name in &*mutation.remove {
        request.headers.remove(name);
    }
    for (name, value, append) in written {
        // Names and values are valid by their types.
        if append {
            request.headers.append(name, value);
        } else {
            request.headers.insert(name, value);
        }
    }
}

/// Applies `mutation` to a response on its way to the client.
pub fn apply_to_response(
    mutation: &HeaderMutation,
    request: &RequestHeader,
    response: &mut ResponseHeader,
    info: &StreamInfo,
) {
    if mutation.is_empty() {
        return;
    }
    let written = evaluated(mutation, Source::of_response(request, response, info));
    for name in &*mutation.remove {
        response.headers.remove(name);
    }
    for (name, value, append) in written {
        if append {
            response.headers.append(name, value);
        } else {
            response.headers.insert(name, value);
        }
    }
}

/// Applies `mutation` to a reply the route itself gives.
pub fn apply_to_reply(
    mutation: &HeaderMutation,
    request: &RequestHeader,
    reply: &mut LocalReply,
    info: &StreamInfo,
) {
    if mutation.is_empty() {
        return;
    }
    reply.headers.retain(|(name, _)| !mutation.remove.contains(name));
    for (name, value, append) in evaluated(mutation, Source::of_request(request, info)) {
        if !append {
            reply.headers.retain(|(present, _)| *present != name);
        }
        reply.headers.push((name, value));
    }
}

/// The fields to write, and whether they are added to those there.
fn evaluated(
    mutation: &HeaderMutation,
    source: Source<'_>,
) -> SmallVec<[(HeaderName, HeaderValue, bool); 4]> {
    let set = mutation.set.iter().map(|operation| (operation, false));
    let add = mutation.add.iter().map(|operation| (operation, true));
    set.chain(add)
        .filter_map(|((name, template), append)| {
            Some((name.clone(), evaluate(template, source)?, append))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use weir_config::model::route::{HeaderTemplate, Operator, TemplatePart};

    use super::*;
    use crate::filter::test_support::{info, request};

    fn literal(value: &'static str) -> HeaderTemplate {
        HeaderTemplate::Literal(HeaderValue::from_static(value))
    }

    fn mutation() -> HeaderMutation {
        HeaderMutation {
            set: [
                (HeaderName::from_static("x-set"), literal("set")),
                (
                    HeaderName::from_static("x-was"),
                    HeaderTemplate::Format(
                        [TemplatePart::Operator(Operator::Request {
                            name: "x-gone".into(),
                            alternative: None,
                            max: None,
                        })]
                        .into(),
                    ),
                ),
            ]
            .into(),
            add: [
                (HeaderName::from_static("x-set"), literal("added")),
                (HeaderName::from_static("x-add"), literal("added")),
                (HeaderName::from_static("x-empty"), literal("")),
            ]
            .into(),
            remove: [HeaderName::from_static("x-gone"), HeaderName::from_static("x-add")].into(),
        }
    }

    fn fields(headers: &crate::head::Headers) -> Vec<String> {
        let mut fields: Vec<_> = headers
            .iter()
            .filter(|(name, _)| name.as_str() != "host")
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
        fields
    }

    const EXPECTED: [&str; 4] = ["x-add: added", "x-set: set", "x-set: added", "x-was: before"];

    #[test]
    fn a_request_is_removed_from_then_set_then_added_to() {
        let mut request = request("GET", "a", "/");
        for (name, value) in
            [("x-set", "a"), ("x-set", "b"), ("x-gone", "before"), ("x-add", "old")]
        {
            request.headers.try_append(name, value).unwrap();
        }
        apply_to_request(&mutation(), &mut request, &info());
        assert_eq!(fields(&request.headers), EXPECTED);
    }

    #[test]
    fn a_response_is_treated_the_same_way() {
        let mut request = request("GET", "a", "/");
        request.headers.try_insert("x-gone", "before").unwrap();
        let mut response = ResponseHeader::new(StatusCode::OK);
        for (name, value) in [("x-set", "a"), ("x-gone", "1"), ("x-add", "old")] {
            response.headers.try_append(name, value).unwrap();
        }
        apply_to_response(&mutation(), &request, &mut response, &info());
        assert_eq!(fields(&response.headers), EXPECTED);
    }

    #[test]
    fn a_reply_is_treated_the_same_way() {
        let mut request = request("GET", "a", "/");
        request.headers.try_insert("x-gone", "before").unwrap();
        let mut reply = LocalReply {
            status: StatusCode::OK,
            headers: SmallVec::new(),
            body: bytes::Bytes::new(),
            flag: None,
            details: "direct_response".into(),
            close: false,
        };
        for name in ["x-set", "x-gone", "x-add"] {
            reply.headers.push((HeaderName::from_static(name), HeaderValue::from_static("old")));
        }
        apply_to_reply(&mutation(), &request, &mut reply, &info());
        assert_eq!(fields(&reply.headers.into_iter().collect()), EXPECTED);
    }
}
