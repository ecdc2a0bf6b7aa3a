// Light or dark: the system's choice, until the reader makes one.

export type Theme = 'dark' | 'light';

const KEY = 'lava-theme';

function stored(): Theme | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === 'dark' || value === 'light' ? value : null;
  } catch {
    return null; // Storage may be forbidden.
  }
}

class Themes {
  now = $state<Theme>(stored() ?? (matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark'));

  constructor() {
    document.documentElement.dataset['theme'] = this.now;
  }

  toggle(): void {
    this.now = this.now === 'dark' ? 'light' : 'dark';
    document.documentElement.dataset['theme'] = this.now;
    try {
      localStorage.setItem(KEY, this.now);
    } catch {
      // Then it lasts as long as the page.
    }
  }
}

export const themes = new Themes();
