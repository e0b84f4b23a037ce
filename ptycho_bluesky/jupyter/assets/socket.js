// The same messages over a WebSocket, for pages without Jupyter: uint32 length of the header, header, buffers, each at
// a multiple of 8 bytes. Comes back by itself when the server does.

function socketLink(path) {
  const listeners = new Set();
  let socket = null, closed = false, wait = 500;
  const url = new URL(path, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.search = location.search;
  const open = () => {
    socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      wait = 500;
      listeners.forEach((l) => l({ t: "open" }, []));
    };
    socket.onmessage = ({ data }) => {
      const length = new DataView(data).getUint32(0, true);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      let at = 4 + length;
      const buffers = header.sizes.map((size) => {
        const view = new DataView(data, at, size);
        at += size + ((8 - (size % 8)) % 8);
        return view;
      });
      listeners.forEach((l) => l(header, buffers));
    };
    socket.onclose = () => {
      if (!closed) setTimeout(open, (wait = Math.min(2 * wait, 8000)));
    };
  };
  open();
  return {
    name: path,
    send: (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message)),
    listen: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    interrupt: null,
    close: () => {
      closed = true;
      socket.close();
    },
  };
}
