//! What only the API server can say: whose token it is, and who may read Secrets.
//!
//! Answers are kept for a minute. While the API server cannot be reached, older ones are still good
//! for a while: a gateway that reconnects must not lose its configuration over it.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, timeout};

/// How long the API server may take. After that older answers do.
const ANSWER: Duration = Duration::from_secs(10);
const FRESH: Duration = Duration::from_secs(60);
const STALE: Duration = Duration::from_secs(600);
/// Answers that are kept; made by who can connect, so there must be an end.
const CAPACITY: usize = 10_000;

const USER_PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// A service account, perhaps of a known pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccount {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// The pod a token is bound to.
    pub pod: Option<Arc<str>>,
}

/// Asks the API server, and remembers.
pub struct Reviews {
    client: Client,
    audiences: Vec<String>,
    tokens: Answers<[u8; 32], Option<ServiceAccount>>,
    permissions: Answers<(Arc<str>, Arc<str>), bool>,
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("audiences", &self.audiences).finish_non_exhaustive()
    }
}

impl Reviews {
    #[must_use]
    pub fn new(client: Client, audiences: Vec<String>) -> Self {
        Self { client, audiences, tokens: Answers::default(), permissions: Answers::default() }
    }

    /// Whose token it is; `None` if it is nobody's, expired, or for another audience.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn token(&self, token: &str) -> anyhow::Result<Option<ServiceAccount>> {
        // A digest, so that no tokens are in memory to be found.
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        self.tokens.of(key, Instant::now(), || self.review(token)).await
    }

    /// Whether the service account may list the Secrets of its namespace, which is what Istio asks of
    /// a gateway too.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn reads_secrets(&self, account: &ServiceAccount) -> anyhow::Result<bool> {
        let key = (Arc::clone(&account.namespace), Arc::clone(&account.name));
        self.permissions.of(key, Instant::now(), || self.may_list_secrets(account)).await
    }

    async fn review(&self, token: &str) -> anyhow::Result<Option<ServiceAccount>> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(self.audiences.clone()),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let review = api.create(&PostParams::default(), &review).await.context("review a token")?;
        Ok(review.status.and_then(|status| account(status, &self.audiences)))
    }

    async fn may_list_secrets(&self, account: &ServiceAccount) -> anyhow::Result<bool> {
        let ServiceAccount { namespace, name, .. } = account;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("{USER_PREFIX}{namespace}:{name}")),
                groups: Some(vec![
                    "system:authenticated".to_owned(),
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                ]),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(namespace.to_string()),
                    verb: Some("list".to_owned()),
                    resource: Some("secrets".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review =
            api.create(&PostParams::default(), &review).await.context("review a permission")?;
        Ok(review.status.is_some_and(|status| status.allowed))
    }
}

/// The service account an answer is about.
fn account(status: TokenReviewStatus, audiences: &[String]) -> Option<ServiceAccount> {
    if status.authenticated != Some(true) {
        return None;
    }
    // A server that knows nothing of audiences answers for its own.
    let named = status.audiences.unwrap_or_default();
    if !named.iter().any(|audience| audiences.contains(audience)) {
        return None;
    }
    let user = status.user?;
    let (namespace, name) = user.username.as_deref()?.strip_prefix(USER_PREFIX)?.split_once(':')?;
    let pod =
        user.extra.and_then(|extra| extra.get(POD_NAME)?.first().map(|pod| pod.as_str().into()));
    Some(ServiceAccount { namespace: namespace.into(), name: name.into(), pod })
}

/// Answers with their age.
#[derive(Debug)]
struct Answers<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Answers<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Answers<K, V> {
    async fn of<F: Future<Output = anyhow::Result<V>>>(
        &self,
        key: K,
        now: Instant,
        ask: impl FnOnce() -> F,
    ) -> anyhow::Result<V> {
        let known = self.lock().get(&key).cloned();
        if let Some((at, answer)) = &known
            && now.duration_since(*at) < FRESH
        {
            return Ok(answer.clone());
        }
        let answer = timeout(ANSWER, ask()).await;
        let answer = answer.unwrap_or_else(|_| Err(anyhow!("the API server does not answer")));
        match (answer, known) {
            (Ok(answer), _) => {
                self.keep(key, now, answer.clone());
                Ok(answer)
            }
            (Err(_), Some((at, answer))) if now.duration_since(at) < STALE => Ok(answer),
            (Err(error), _) => Err(error),
        }
    }

    fn keep(&self, key: K, now: Instant, answer: V) {
        let mut answers = self.lock();
        if answers.len() >= CAPACITY {
            answers.retain(|_, (at, _)| now.duration_since(*at) < FRESH);
        }
        if answers.len() < CAPACITY {
            answers.insert(key, (now, answer));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, (Instant, V)>> {
        // Nothing in here panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(audience: &str, user: &str) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.to_owned()]),
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some(BTreeMap::from([(POD_NAME.to_owned(), vec!["gw-1".to_owned()])])),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn only_a_service_account_with_our_audience_is_one() {
        let ours = ["istio-ca".to_owned()];
        let found = account(status("istio-ca", "system:serviceaccount:a:gw"), &ours);
        let expected =
            ServiceAccount { namespace: "a".into(), name: "gw".into(), pod: Some("gw-1".into()) };
        assert_eq!(found, Some(expected));
        assert_eq!(account(status("api", "system:serviceaccount:a:gw"), &ours), None);
        assert_eq!(account(status("istio-ca", "kubernetes-admin"), &ours), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_never_answers_is_as_one_that_is_down() {
        let (answers, start): (Answers<u8, bool>, _) = (Answers::default(), Instant::now());
        let hangs = async || std::future::pending().await;
        assert!(answers.of(1, start, async || Ok(true)).await.unwrap());
        assert!(answers.of(1, start + FRESH * 2, hangs).await.unwrap());
        assert!(answers.of(2, start, hangs).await.is_err());
        assert!(start.elapsed() <= ANSWER * 2);
    }

    #[tokio::test]
    async fn an_old_answer_is_good_while_there_is_no_new_one() {
        let (answers, start): (Answers<u8, bool>, _) = (Answers::default(), Instant::now());
        let down = async || Err(anyhow::anyhow!("down"));
        assert!(answers.of(1, start, async || Ok(true)).await.unwrap());
        assert!(answers.of(1, start + FRESH * 2, down).await.unwrap());
        assert!(answers.of(2, start + FRESH * 2, down).await.is_err());
        assert!(!answers.of(1, start + FRESH * 2, async || Ok(false)).await.unwrap());
        assert!(answers.of(1, start + FRESH * 2 + STALE, down).await.is_err());
    }
}
