//! Hardening C5: policies see the one canonical path, however it was spelled.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::Arc;

use http::StatusCode;
use weir_config::model::{
    ListenerName, Settings, WorkloadPolicies,
    filter::{self, Attribute, AuthzPolicy, AuthzRule, Condition, ValueMatch},
    matcher::StringMatch,
    settings::PathNormalization,
};
use weir_gateway::head::RequestHeader;
use weir_gateway::{
    connection::{ConnectionInfo, Direction},
    filter::{HttpFilters, RouteFilters},
    http::normalize,
    local_reply::LocalReply,
    telemetry::{Protocol, StreamInfo},
};

fn exact(text: &str) -> ValueMatch {
    ValueMatch::String(StringMatch::Exact(text.into()))
}

fn starting(text: &str) -> ValueMatch {
    ValueMatch::String(StringMatch::Prefix(text.into()))
}

/// One policy with one rule about paths.
fn policy(values: &[ValueMatch], not_values: &[ValueMatch]) -> Arc<[AuthzPolicy]> {
    let condition = Condition {
        attribute: Attribute::Path,
        values: values.into(),
        not_values: not_values.into(),
    };
    let rule = AuthzRule { to: [Arc::from([condition])].into(), ..AuthzRule::default() };
    [AuthzPolicy { name: "p".into(), dry_run: false, rules: [rule].into() }].into()
}

fn policies(deny: Arc<[AuthzPolicy]>, allow: Arc<[AuthzPolicy]>) -> filter::Authz {
    filter::Authz { deny, allow, audit: Arc::default(), unenforceable: Arc::default() }
}

/// Spellings of `/admin` and of what is under it that some server takes for it.
fn spellings() -> Vec<String> {
    let letters = [
        "admin",
        "%61dmin",
        "a%64min",
        "ad%6din",
        "adm%69n",
        "admi%6e",
        "%61%64%6d%69%6e",
        "%61%64%6D%69%6E",
    ];
    let leads = [
        "/",
        "/./",
        "/../",
        "/x/../",
        "/x/%2e%2e/",
        "/x/.%2E/",
        "/%2e/",
        "/x/y/../../",
        "/.././",
        "/x/..\\",
        "/\\../",
        "/x\\..\\",
        "/%2E%2E/",
    ];
    let tails = ["", "?x", "?/public", "/."];
    let mut all = Vec::new();
    for lead in leads {
        for letters in letters {
            for tail in tails {
                all.push(format!("{lead}{letters}{tail}"));
            }
        }
    }
    all
}

/// What becomes of a request for `target` under `config`, normalised as the gateway does.
async fn through(
    config: &filter::Authz,
    target: &str,
    mode: PathNormalization,
) -> Result<String, StatusCode> {
    let mut request = RequestHeader::build("GET", target).unwrap();
    request.headers.try_insert("host", "a.example").unwrap();
    let settings = Settings { path_normalization: mode, ..Settings::default() };
    let connection = ConnectionInfo {
        direction: Direction::Gateway,
        transparent_source: None,
        peer: weir_gateway::connection::Peer::default(),
        peer_addr: "192.0.2.7:4711".parse().unwrap(),
        local_addr: "10.0.0.1:8080".parse().unwrap(),
        listener: ListenerName::new("0.0.0.0_8080"),
        port: 80,
        server_name: None,
        tls: None,
    };
    let mut info = StreamInfo::start(Arc::new(connection), Protocol::Http11);
    let policies = WorkloadPolicies { jwt_authn: None, authz: Some(Arc::new(config.clone())) };
    let filters = HttpFilters::next(&HttpFilters::default(), &Arc::new(policies));
    let refused = |reply: LocalReply| reply.status;
    let mut context = normalize::request(&settings, &mut request, &mut info).map_err(refused)?;
    let route = RouteFilters::default();
    filters.authenticate(&route, &mut request, &mut context, &mut info).map_err(refused)?;
    filters.on_request(&route, &request, &mut context, &mut info).await.map_err(refused)?;
    Ok(request.uri.path().to_owned())
}

/// Hardening C5: CVE-2019-9901, CVE-2021-29492, CVE-2021-31920 and their kind.
#[tokio::test]
async fn no_spelling_of_a_path_gets_past_a_policy() {
    let admin = [exact("/admin"), starting("/admin/")];
    let denying = policies(policy(&admin, &[]), Arc::default());
    let excepting = policies(Arc::default(), policy(&[], &admin));
    let modes = [
        PathNormalization::Base,
        PathNormalization::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes,
    ];
    let all = spellings();
    assert!(all.len() >= 400, "{}", all.len());
    for target in &all {
        for mode in modes {
            for config in [&denying, &excepting] {
                let outcome = through(config, target, mode).await;
                assert_eq!(outcome, Err(StatusCode::FORBIDDEN), "{target} in {mode:?}");
            }
        }
    }
}

/// What is left to the stricter modes, and what no mode takes.
#[tokio::test]
async fn a_spelling_is_the_path_only_in_the_mode_that_says_so() {
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes};
    let denying = policies(policy(&[exact("/admin")], &[]), Arc::default());
    let forbidden = Err(StatusCode::FORBIDDEN);
    let bad = Err(StatusCode::BAD_REQUEST);
    for (target, base, merged, decoded) in [
        ("//admin", Ok("//admin"), forbidden, forbidden),
        ("/x//../..//admin", Ok("//admin"), forbidden, forbidden),
        ("/x%2f..%2fadmin", Ok("/x%2F..%2Fadmin"), Ok("/x%2F..%2Fadmin"), forbidden),
        ("/%5cadmin", Ok("/%5Cadmin"), Ok("/%5Cadmin"), forbidden),
        ("/%252e/admin", Ok("/%252e/admin"), Ok("/%252e/admin"), Ok("/%252e/admin")),
        ("/admin;x", Ok("/admin;x"), Ok("/admin;x"), Ok("/admin;x")),
        ("/admin%00", bad, bad, bad),
        ("/admin%", bad, bad, bad),
        ("/%c0%ae/admin", Ok("/%C0%AE/admin"), Ok("/%C0%AE/admin"), Ok("/%C0%AE/admin")),
    ] {
        for (mode, expected) in
            [(Base, base), (MergeSlashes, merged), (DecodeAndMergeSlashes, decoded)]
        {
            let outcome = through(&denying, target, mode).await;
            assert_eq!(outcome.as_deref(), expected.as_ref().copied(), "{target} in {mode:?}");
        }
    }
}
