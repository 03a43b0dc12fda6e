//! The socket where the plugin asks.

use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::api::ApiServer;
use crate::question::{Answer, MAX, Question, SOCKET};

/// For one question.
const LIMIT: Duration = Duration::from_secs(10);

/// Starts to answer.
pub fn start(folder: &Path, api: Arc<ApiServer>) -> anyhow::Result<()> {
    let path = folder.join(SOCKET);
    let failed = || format!("listen at {}", path.display());
    fs::create_dir_all(folder).with_context(failed)?;
    // Who is not root has nothing to ask here.
    fs::set_permissions(folder, Permissions::from_mode(0o700)).with_context(failed)?;
    // Of the agent before.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(failed);
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(failed)?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            tokio::spawn(timeout(LIMIT, answer(stream, Arc::clone(&api))));
        }
    });
    Ok(())
}

/// Takes the socket away.
pub fn remove(folder: &Path) {
    // The folder is the node's; other things in it are not ours.
    let _ = fs::remove_file(folder.join(SOCKET));
}

async fn answer(mut stream: UnixStream, api: Arc<ApiServer>) {
    let mut text = Vec::new();
    let read = (&mut stream).take(MAX).read_to_end(&mut text).await;
    let question: Result<Question, _> = serde_json::from_slice(&text);
    let answer = match (read, question) {
        (Ok(_), Ok(question)) => {
            let answer = api.ask(&question).await;
            tell(&question, &answer);
            answer
        }
        (Err(error), _) => Answer::Unknown(format!("read the question: {error}")),
        (_, Err(error)) => Answer::Refuse(format!("the question is none: {error}")),
    };
    let answer = serde_json::to_vec(&answer).unwrap_or_default();
    // A plugin that was ended asks again.
    let _ = stream.write_all(&answer).await;
}

fn tell(question: &Question, answer: &Answer) {
    let Question { namespace, name, .. } = question;
    match answer {
        Answer::Skip(because) => debug!(%namespace, %name, %because, "a pod is left alone"),
        Answer::Program(_) => info!(%namespace, %name, "a pod's rules are programmed"),
        Answer::Unknown(why) => warn!(%namespace, %name, %why, "a pod has to wait"),
        Answer::Refuse(why) => warn!(%namespace, %name, %why, "a pod is refused"),
    }
}
