// The list of sessions, for a server that was built without its page. All text is put as text.
const state = document.getElementById("state");

async function logIn() {
  const token = location.hash.slice(1);
  if (location.pathname !== "/login" || !token) return;
  history.replaceState(null, "", "/");
  await fetch("/api/login", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token }),
  });
}

async function show() {
  await logIn();
  const me = await fetch("/api/me");
  if (!me.ok) {
    state.textContent = "You are not logged in: open the link that `lava serve` printed, or make another with `lava serve link`.";
    return;
  }
  const { user, role } = await me.json();
  state.textContent = `Logged in as ${user} (${role}). The API is described in /api/openapi.json.`;
  const { sessions } = await (await fetch("/api/sessions")).json();
  for (const session of sessions) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = `/api/sessions/${session.id}/files/report.html`;
    link.textContent = `${session.started} ${session.task.name}: ${session.verdict ?? "-"} (${session.state})`;
    item.append(link);
    document.getElementById("sessions").append(item);
  }
}

show().catch((error) => { state.textContent = `The server does not answer: ${error}`; });
